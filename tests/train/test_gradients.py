"""Sums of gradients over ranks in buckets: when they start, in which order, and how much of them is hidden."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from stylegan_ray import distributed
from stylegan_ray.train.gradients import NUM_BUCKETS, Buckets, Gradients, bucket_ends


@pytest.fixture
def started(monkeypatch):
    """Notes what sums start and are waited for."""
    events = []

    def start(part):
        events.append(("start", part.numel()))
        return lambda: events.append(("wait", part.numel()))

    monkeypatch.setattr(distributed, "start_sum_over_ranks", start)
    return events


def buckets_of(*sizes):
    """One bucket for each parameter; five passengers."""
    buckets = Buckets(torch.zeros(sum(sizes) + 5), sizes)
    assert [part.numel() for part in buckets.parts] == [*sizes[:-1], sizes[-1] + 5]
    return buckets


SIZES = (20000, 30000, 40000)


def test_the_first_pass_of_a_kind_finds_out_and_the_next_starts_as_gradients_come(started):
    buckets = buckets_of(*SIZES)
    buckets.expect("G")
    for number in (0, 2, 1):
        buckets.arrived(number)
    assert not started
    buckets.finish()
    assert [what for what, _ in started] == ["start"] * 3 + ["wait"] * 3
    started.clear()
    buckets.expect("G")
    buckets.arrived(1)
    assert not started, "a bucket starts after the one before it"
    buckets.arrived(0)
    assert started == [("start", 20000), ("start", 30000)]
    buckets.arrived(2)
    assert len(started) == 2, "the last one has the passengers"
    buckets.finish()
    assert started[2] == ("start", 40005)


def test_what_a_pass_does_not_reach_is_not_waited_for(started):
    buckets = buckets_of(*SIZES)
    for _ in range(2):
        started.clear()
        buckets.expect("reg")
        buckets.arrived(1)
    assert started == []
    buckets.finish()
    buckets.expect("reg")
    started.clear()
    buckets.arrived(1)
    assert started == [("start", 20000), ("start", 30000)]
    with pytest.raises(AssertionError, match="comes after its sum"):
        buckets.arrived(0)


def test_without_an_expected_pass_all_is_summed_at_the_end(started):
    buckets = buckets_of(*SIZES)
    buckets.arrived(0)
    buckets.finish()
    assert [size for what, size in started if what == "start"] == [20000, 30000, 40005]


def test_cuts_into_buckets_of_about_one_size():
    sizes = [1000] * 1000
    ends = bucket_ends(sizes, 4)
    assert len(ends) == NUM_BUCKETS and ends[-1] == 1000
    assert bucket_ends([10] * 5, 4) == [5], "small networks have one bucket"
    assert bucket_ends([10**6, 1, 1], 4) == [1, 3]
    assert bucket_ends([1, 10**6], 4) == [2]


def test_gradients_land_in_the_buffer_in_the_reverse_of_their_order():
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    grads = Gradients(network, 4)
    network(torch.ones(1, 3)).sum().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in list(network.parameters())[::-1]])
    assert torch.equal(grads.flat[: grads.num_values], expected) and grads.passengers.tolist() == [0] * 4
    grads.zero()
    assert all(not parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_found_wherever_it_stands(value):
    grads = Gradients(nn.Linear(299, 7), 4)
    grads.flat.copy_(torch.randn(len(grads.flat), generator=torch.Generator().manual_seed(0)))
    grads.passengers.fill_(value)
    assert grads.num_nonfinite() == 0, "passengers are no gradients"
    for place in (*range(40), 1000, grads.num_values - 1):
        before = grads.flat[place].clone()
        grads.flat[place] = value
        assert grads.num_nonfinite() == 1, place
        grads.flat[place] = before


LAYER_SEC, LINK_SEC = 0.05, 0.4
"""Time that a layer's backward pass takes, and the whole sum: a third of the pass of 24 layers."""


class Slow(torch.autograd.Function):
    """Nothing, whose backward pass takes time but no processor."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        time.sleep(LAYER_SEC)
        return grads[0]


class SlowLayer(nn.Linear):
    def forward(self, x):
        return Slow.apply(super().forward(x))


def slow_worker(rank, folder):
    """Times backward passes and sums on a slow link, with and without starting sums early."""
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    network = nn.Sequential(*(SlowLayer(200, 200) for _ in range(24)))
    grads, link = Gradients(network, 3), ThreadPoolExecutor(1)

    def start(part):
        def send():
            time.sleep(LINK_SEC * part.numel() / grads.flat.numel())
            dist.all_reduce(part)

        return link.submit(send).result

    distributed.start_sum_over_ranks = start
    x, found = torch.randn(2, 200, generator=torch.Generator().manual_seed(rank)), {}
    for kind in (None, *["pass"] * 4):  # the shortest wait counts: others may work on this machine
        grads.zero()
        dist.barrier()
        if kind:
            grads.is_last_backward(kind)
        network(x).square().mean().backward()
        grads.passengers.fill_(rank + 1.0)
        computed = time.perf_counter()
        grads.reduce()
        wait = time.perf_counter() - computed
        shortest = min(wait, found[kind]["wait"]) if kind in found else wait
        found[kind] = {"wait": shortest, "flat": grads.flat.clone()}
    torch.save(found, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_on_a_slow_link_nine_tenths_of_the_sum_are_hidden_and_nothing_else_changes(tmp_path):
    mp.spawn(slow_worker, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for found in ranks:
        assert torch.equal(found[None]["flat"], found["pass"]["flat"]), "equal bit for bit"
        assert torch.equal(found["pass"]["flat"], ranks[0]["pass"]["flat"])
        assert found["pass"]["flat"][-3:].tolist() == [3.0] * 3
        assert found["pass"]["wait"] < 0.1 * found[None]["wait"], (found["pass"]["wait"], found[None]["wait"])
