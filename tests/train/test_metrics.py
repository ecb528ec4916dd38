"""Metrics in a run: when, by whom, what is noted, and that nothing else changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.measured import Pictures, numbers
from support.processes import spawn
from support.toy import toy_config, toy_minibatches, toy_state

from stylegan_ray.config import ConfigError
from stylegan_ray.interop import read_networks
from stylegan_ray.metrics.blocks import BlockWorker
from stylegan_ray.metrics.compute import evaluate
from stylegan_ray.metrics.reals_cache import RealsCache
from stylegan_ray.report.snapshots import Snapshots
from stylegan_ray.storage import Storage
from stylegan_ray.train import metrics
from stylegan_ray.train.background_writer import BackgroundWriter
from stylegan_ray.train.checkpoint import newest_checkpoint
from stylegan_ray.train.loop import training_loop
from stylegan_ray.train.metrics import GroupMetrics, check_metrics, is_due, metric_specs, plan_of, tick_to_catch_up

NAMES = ("fid130_tiny", "kid100_tiny", "is100_tiny", "ppl0.1k_wend_tiny")
KEYS = {
    "metrics.names": NAMES[:1], "metrics.ticks": 2, "train.grid_size": (2, 1), "schedule.tick_kimg": 0.016,
    "train.total_kimg": 0.08,
}  # fmt: skip
"""Five ticks of two iterations."""


def group_of(cfg, dataset=None):
    return GroupMetrics(cfg, dataset or Pictures(), torch.device("cpu"), RealsCache())


def trained(cfg, folder, pauses=None, metrics=True):
    """Trains with metrics as a worker does, from the newest checkpoint on; returns the state."""
    run, source, state = Storage.at(folder), Pictures(), toy_state(cfg)
    newest = newest_checkpoint(run.folder("checkpoints"))
    if newest:
        newest.restore(state)
    writer, group = BackgroundWriter(run, 3, print), group_of(cfg) if metrics else None
    snapshots = Snapshots(cfg, source, state, writer)
    snapshots.begin()
    missing = tick_to_catch_up(state, cfg)
    if group and missing is not None and not snapshots.has_metrics(missing, state.cur_nimg):
        snapshots.add_metrics(group.rows(state, missing))
    loop = training_loop(state, cfg, toy_minibatches(cfg, state.cur_nimg, source), source)
    for number, pause in enumerate(loop, 1):
        snapshots.at_pause(pause)
        tick = pause.stats["Progress/tick"]
        if group and is_due(cfg, tick, pause.done):
            snapshots.add_metrics(group.rows(state, tick))
        if tick % 2 == 0 or pause.done:
            snapshots.save_checkpoint()
        if number == pauses:
            break
    writer.flush(60)
    snapshots.sinks.close()
    return state


def rows_in(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run with metrics from beginning to end: (folder, state)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, trained(toy_config(**KEYS), folder)


def test_due_at_ticks_and_at_the_end():
    cfg = toy_config(**{"metrics.names": NAMES, "train.network_snapshot_ticks": 5})
    assert [tick for tick in range(12) if is_due(cfg, tick, done=tick == 11)] == [5, 10, 11]
    often = cfg.with_overrides({"metrics.ticks": 3})
    assert [tick for tick in range(12) if is_due(often, tick, False)] == [3, 6, 9]
    never = cfg.with_overrides({"train.network_snapshot_ticks": None})
    assert not any(is_due(never, tick, False) for tick in range(12)) and is_due(never, 0, True)


def test_num_images_and_wrong_names():
    cfg = toy_config(**{"metrics.names": ("fid50k", "fid1k_tiny"), "metrics.num_images": 500})
    assert [spec.name for spec in metric_specs(cfg)] == ["fid500", "fid500_tiny"]
    with pytest.raises(ConfigError, match=r"fid5k_tyni.*did you mean"):
        check_metrics(toy_config(**{"metrics.names": ("fid5k_tyni",)}), Pictures())
    few = Pictures()
    few.num_images = 3
    with pytest.raises(ConfigError, match=r"metrics.names=.*at least 4"):
        check_metrics(toy_config(**{"metrics.names": ("pr100_tiny",)}), few)


def test_every_due_tick_has_its_row_and_the_start_has_one(undisturbed):
    folder, state = undisturbed
    rows = rows_in(folder)
    assert [row["Progress/tick"] for row in rows] == [0, 2, 4]
    assert [row["kimg"] for row in rows] == [0, 0.048, 0.08] and state.cur_nimg == 80
    assert all(row["value"] > 0 and row["num_gen"] == 130 and row["num_real"] == 12 for row in rows)
    recorded = {"metric": "fid130_tiny", "detector": "tiny-openmoji", "data": "toy", "placement": "inline", "seed": 0}
    assert all(row.items() >= recorded.items() and len(row["detector_sha256"]) == 64 for row in rows)


def test_the_best_network_is_kept_aside(undisturbed):
    folder, _ = undisturbed
    best = min(rows_in(folder), key=lambda row: row["value"])
    networks = read_networks(folder / "best-fid130_tiny.safetensors")
    assert networks.cur_nimg == round(best["kimg"] * 1000)
    (row,) = evaluate(networks.G_ema, Pictures(), NAMES[:1])
    assert row["value"] == best["value"]


def test_the_training_does_not_notice(undisturbed, tmp_path):
    """Bit for bit the same state and the same numbers still to come, with metrics and without."""
    torch.manual_seed(3)
    cfg = toy_config(**{**KEYS, "train.total_kimg": 0.048})
    plain = trained(cfg, tmp_path / "plain", metrics=False)
    before = torch.random.get_rng_state()
    measured = trained(cfg, tmp_path / "measured")
    assert all(torch.equal(value, measured.tensors()[name]) for name, value in plain.tensors().items())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not (tmp_path / "plain" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("pauses", [1, 4])
def test_a_resumed_run_has_every_row_once(undisturbed, tmp_path, pauses):
    """Stopped after some pauses; the checkpoint is at the pause or one before, whose later rows come again."""
    cfg = toy_config(**KEYS)
    trained(cfg, tmp_path, pauses)
    trained(cfg, tmp_path)
    assert numbers(rows_in(tmp_path)) == numbers(rows_in(undisturbed[0]))


def test_rows_that_a_stop_left_out_are_taken_when_the_run_goes_on(undisturbed, tmp_path):
    cfg = toy_config(**KEYS)
    trained(cfg, tmp_path, pauses=3)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(rows[-1])["Progress/tick"] == 2
    (tmp_path / "metrics.jsonl").write_text("".join(rows[:-1]))
    trained(cfg, tmp_path)
    assert numbers(rows_in(tmp_path)) == numbers(rows_in(undisturbed[0]))


def test_without_weights_the_row_says_which_command_helps(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_DETECTORS", str(tmp_path / "none"))
    cfg = toy_config(**{**KEYS, "metrics.names": ("fid50k", "fid64_tiny"), "train.total_kimg": 0.016})
    trained(cfg, tmp_path / "run")
    rows = rows_in(tmp_path / "run")
    assert [row["metric"] for row in rows] == ["fid64_tiny", "fid50k"] * 2
    assert all("jobs/evaluate.py prefetch inception" in row["unavailable"] for row in rows[1::2])
    assert not (tmp_path / "run" / "best-fid50k.safetensors").exists()


def test_numbers_that_are_not_finite_do_not_end_the_training():
    cfg, state = toy_config(**KEYS), toy_state(toy_config())
    group = group_of(cfg)
    group.available[0]["tiny"].module.features.bias.data.fill_(float("nan"))
    (row,) = group.rows(state, 0)
    assert row["value"] is None and "not finite" in row["unavailable"]


class FailsOnRank1(BlockWorker):
    """Has no room for a block of generated pictures."""

    def run(self, task):
        if task.kind == "fake":
            raise MemoryError("no room")
        return super().run(task)


def in_group(rank, world_size, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    cfg = toy_config(**{"metrics.names": NAMES})
    group, state = group_of(cfg), toy_state(cfg)
    rows = [group.rows(state, 0)]
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(metrics, "BlockWorker", FailsOnRank1)
        rows += [group.rows(state, 1)]
    rows += [group.rows(state, 2)]
    torch.save(rows, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_any_number_of_workers_gives_the_same_bits(tmp_path):
    """Two workers, of whom one fails in between: both go on, and the next row is right again."""
    cfg = toy_config(**{"metrics.names": NAMES})
    state = toy_state(cfg)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = group_of(cfg).rows(state, 0)
    torch.set_num_threads(threads)
    assert len(expected) == len(NAMES) and np.isfinite([row["value"] for row in expected]).all()
    spawn(in_group, (2, str(tmp_path)), nprocs=2)
    first, failed, again = torch.load(tmp_path / "0.pt")
    assert numbers(first) == numbers(expected)
    assert [row["value"] for row in again] == [row["value"] for row in expected]
    assert all(row["value"] is None and "worker 1: MemoryError: no room" in row["unavailable"] for row in failed)
    assert torch.load(tmp_path / "1.pt") == [[], [], []]


def test_a_plain_evaluation_of_the_same_network_agrees():
    cfg = toy_config(**{**KEYS, "train.drange_net": (0.0, 1.0), "data.mirror_augment": True})
    state = toy_state(cfg)
    (row,) = group_of(cfg).rows(state, 0)
    plan = replace(plan_of(state, cfg), mirror=True, drange=(0.0, 1.0))
    assert row["value"] == evaluate(state.G_ema, Pictures(), NAMES[:1], plan)[0]["value"] and row["num_real"] == 24
