"""Replicas that differ are found and named and stop the run; equal ones pass."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.laws import run
from support.processes import spawn
from support.toy import toy_config, toy_state

from stylegan_ray import distributed
from stylegan_ray.train.replica_check import ReplicaError, check_replicas, digest, odd_ranks
from stylegan_ray.train.state import COUNTERS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_digest_shows_every_change_of_one_element(dtype):
    value = (torch.arange(12).reshape(3, 4) % 2).to(dtype)
    before = digest(value)
    assert digest(value.clone()) == before
    for place in range(value.numel()):
        other = value.clone()
        other.view(-1)[place] = 1 - other.view(-1)[place].to(torch.int8)
        assert digest(other) != before
    assert digest(value.flip(0, 1)) != before, "the same elements in other places"


def test_digest_sees_the_last_bit_and_the_sign_of_zero():
    value = torch.ones(5)
    assert digest(torch.nextafter(value, torch.zeros(5))) != digest(value)
    assert digest(torch.tensor(0.0)) != digest(torch.tensor(-0.0))
    assert digest(torch.tensor(float("nan"))) == digest(torch.tensor(float("nan")))


def test_odd_ranks():
    assert odd_ranks([5, 5, 7, 5]) == [2]
    assert odd_ranks([5, 7]) == [0, 1]
    assert odd_ranks([1, 2, 3]) == [0, 1, 2]


def adds_one(name):
    return lambda state: setattr(state, name, getattr(state, name) + 1)


CHANGES = {name: adds_one(name) for name in COUNTERS}
CHANGES["num_steps"] = lambda state: setattr(state.optimizers["D"], "num_steps", 0)
CHANGES["means"] = lambda state: setattr(state.means, "counts", {"Loss/G/loss": 1})


def changed(state, what: str) -> str:
    """The error of the check on this rank while one value is changed on rank 1, or nothing."""
    values = {
        "weight": lambda: state.D.b8.conv0.weight.data.view(-1)[3:4],
        "moment": lambda: state.optimizers["G"].tensors()["exp_avg_sq.mapping.dense0.weight"].view(-1)[:1],
    }
    before = values[what]().clone() if what in values else None
    counters = [(state, name) for name in COUNTERS] + [(state.optimizers["D"], "num_steps"), (state.means, "counts")]
    kept = [(owner, name, getattr(owner, name)) for owner, name in counters]
    if distributed.rank() == 1:
        if before is None:
            CHANGES[what](state)
        else:
            values[what]().copy_(torch.nextafter(before, before + 1))
    try:
        check_replicas(state, f"10.0.0.{distributed.rank()}")
        return ""
    except ReplicaError as error:
        return str(error)
    finally:
        if before is not None:
            values[what]().copy_(before)
        for owner, name, value in kept:
            setattr(owner, name, value)


def worker(rank, folder):
    """Three replicas train, differ in one value after another, and then one of them does not answer."""
    torch.set_num_threads(1)
    stores = [dist.FileStore(os.path.join(folder, name), 3) for name in ("store", "end")]
    dist.init_process_group("gloo", store=stores[0], rank=rank, world_size=3)
    addresses = ["10.0.0.0", "10.0.0.1", "10.0.0.2"]
    own = dist.PrefixStore("first_sum", stores[1])
    distributed.first_sum(own, "cpu", addresses, timeout_sec=60)
    cfg = toy_config(**{"train.total_kimg": 0.064})
    state = toy_state(cfg)
    run(cfg, state, pauses=2)
    found = {}
    check_replicas(state, addresses[rank])
    for what in ("weight", "moment", *CHANGES):
        found[what] = changed(state, what)
    dist.barrier()
    own.delete_key("2")
    if rank != 2:
        with pytest.raises(ConnectionError) as caught:
            distributed.first_sum(own, "cpu", addresses, timeout_sec=1)
        found["late"] = str(caught.value)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    stores[1].set(str(rank), b"")
    stores[1].wait([str(other) for other in range(3)])
    os._exit(0)  # a sum that hangs ends with its process


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    spawn(worker, (str(folder),), nprocs=3)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("weight", "D.b8.conv0.weight"),
        ("moment", "G_opt.exp_avg_sq.mapping.dense0.weight"),
        *((name, name) for name in CHANGES if name not in ("cur_nimg", "elapsed_sec")),
    ],
)
def test_a_rank_that_differs_is_named_on_all_ranks(found, what, name):
    assert len({rank[what] for rank in found}) == 1
    assert found[0][what].startswith(f"at 0.048 kimg {name} is different on worker 1 on 10.0.0.1 ")


def test_a_clock_of_its_own_is_no_difference(found):
    assert {rank["elapsed_sec"] for rank in found} == {""}
    assert " cur_nimg is different on worker 1 " in found[0]["cur_nimg"]


def test_the_first_sum_names_a_worker_that_does_not_answer(found):
    for rank in (0, 1):
        assert found[rank]["late"].startswith("no answer from worker 2 on 10.0.0.2 after 1 s")
