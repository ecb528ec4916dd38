"""Checkpoints are complete or invisible, verified when read, and never the reason why a run starts over."""

import json

import pytest
import torch
from support.s3 import s3_server
from support.toy import ToySet, toy_config, toy_minibatches, toy_state

from stylegan_ray.packed_tensors import PackedTensors
from stylegan_ray.run_folder import complete_checkpoints
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import (
    CheckpointError,
    Snapshot,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from stylegan_ray.train.loop import Diverged, training_loop
from stylegan_ray.train.resume import Rollback


def snapshot(nimg, value=1.0):
    tensors = PackedTensors({"G.w": torch.full((3,), value), "step": torch.tensor(2)})
    return Snapshot(tensors, {"cur_nimg": nimg}, "run: {}\n")


@pytest.fixture(scope="module")
def bucket():
    with s3_server():
        yield "s3://bucket"


@pytest.fixture(params=["folder", "bucket"])
def checkpoints(request, tmp_path):
    local = request.param == "folder"
    storage = Storage.at(tmp_path if local else f"{request.getfixturevalue('bucket')}/{tmp_path.name}")
    for nimg in (10, 20, 30):
        write_checkpoint(snapshot(nimg, float(nimg)), storage)
    return storage


def state_file(checkpoints, nimg):
    return f"ckpt-{nimg:012d}/state.safetensors"


def truncate(checkpoints, nimg):
    checkpoints.write(state_file(checkpoints, nimg), checkpoints.read(state_file(checkpoints, nimg))[:-1])


def flip_a_bit(checkpoints, nimg):
    content = bytearray(checkpoints.read(state_file(checkpoints, nimg)))
    content[-1] ^= 1
    checkpoints.write(state_file(checkpoints, nimg), bytes(content))


def lose_a_file(checkpoints, nimg):
    checkpoints.delete(state_file(checkpoints, nimg))


def tear_the_marker(checkpoints, nimg):
    name = f"ckpt-{nimg:012d}/COMPLETE"
    checkpoints.write(name, checkpoints.read(name)[:40])


def test_a_checkpoint_is_read_as_written(checkpoints):
    back = read_checkpoint(checkpoints.folder("ckpt-000000000020"))
    assert back.counters == {"cur_nimg": 20} and torch.equal(back.tensors["G.w"], torch.full((3,), 20.0))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_a_file, tear_the_marker])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(checkpoints, damage, caplog):
    damage(checkpoints, 30)
    assert newest_checkpoint(checkpoints).counters["cur_nimg"] == 20
    (record,) = caplog.records
    assert "ckpt-000000000030" in record.getMessage()
    assert complete_checkpoints(checkpoints)[-1] == "ckpt-000000000020", "it does not count as one to keep"


def test_a_checkpoint_without_its_marker_is_invisible(checkpoints):
    checkpoints.delete("ckpt-000000000030/COMPLETE")
    assert newest_checkpoint(checkpoints).counters["cur_nimg"] == 20


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(checkpoints):
    for nimg in (10, 20, 30):
        flip_a_bit(checkpoints, nimg)
    with pytest.raises(CheckpointError, match="all checkpoints"):
        newest_checkpoint(checkpoints)
    assert len(complete_checkpoints(checkpoints)) == 3, "what may be rescued is kept"


def test_another_format_is_an_error_and_not_damage(checkpoints):
    name = "ckpt-000000000030/COMPLETE"
    checkpoints.write(name, json.dumps(json.loads(checkpoints.read(name)) | {"format_version": 99}).encode())
    with pytest.raises(ValueError, match="format 99"):
        newest_checkpoint(checkpoints)
    assert len(complete_checkpoints(checkpoints)) == 3


def test_an_equal_checkpoint_is_not_written_again(checkpoints):
    """Writing begins with deleting: for a moment the newest checkpoint would be gone."""

    class ReadOnly(Storage):
        def write(self, name, content):
            raise AssertionError(f"{name} is written")

        def delete(self, name):
            raise AssertionError(f"{name} is deleted")

        def folder(self, name):
            return ReadOnly(self.filesystem, self.path(name))

    read_only = ReadOnly(checkpoints.filesystem, checkpoints.root)
    assert write_checkpoint(snapshot(30, 30.0), read_only) == "ckpt-000000000030"


def test_training_does_not_change_a_snapshot_inside_a_tick():
    cfg = toy_config(**{"schedule.tick_kimg": 0.064})
    state = toy_state(cfg)
    loop = training_loop(state, cfg, toy_minibatches(cfg), ToySet(), lambda: True)
    next(loop)  # the first group, a tick of its own
    next(loop)
    snapshot = Snapshot.of(state, cfg)
    counts, content = dict(state.means.counts), bytes(snapshot.tensors.content)
    next(loop)
    assert state.means.counts != counts, "the tick goes on"
    assert snapshot.tensors.content == content
    snapshot.restore(state)
    assert state.means.counts == counts


def test_a_rollback_restores_the_last_checkpoint_and_draws_other_numbers(tmp_path):
    cfg = toy_config(**{"train.on_nonfinite": "rollback", "train.nonfinite_budget": 2})
    state, checkpoints, lines = toy_state(cfg), Storage.at(tmp_path), []
    rollback = Rollback(state, cfg, checkpoints)
    state.cur_nimg = 32
    line = rollback.go_back(Diverged("not finite"), lines.append)
    assert (state.cur_nimg, state.stream_salt, state.num_nonfinite) == (0, 1, 1) and "the start" in line
    state.cur_nimg = 48
    write_checkpoint(Snapshot.of(state, cfg), checkpoints)
    state.cur_nimg = 64
    assert "ckpt-000000000048" in rollback.go_back(Diverged("not finite"), lines.append)
    assert (state.cur_nimg, state.stream_salt, state.num_nonfinite) == (48, 2, 2)
    with pytest.raises(FloatingPointError, match=r"train\.nonfinite_budget=2.*lower"):
        rollback.go_back(Diverged("not finite"), lines.append)


def test_a_rollback_skips_checkpoints_that_are_not_finite(tmp_path):
    cfg = toy_config(**{"train.on_nonfinite": "rollback"})
    state, checkpoints = toy_state(cfg), Storage.at(tmp_path)
    rollback = Rollback(state, cfg, checkpoints)
    for nimg in (16, 32):
        state.cur_nimg = nimg
        write_checkpoint(Snapshot.of(state, cfg), checkpoints)
        with torch.no_grad():
            next(state.G.parameters()).view(-1)[0] = float("inf")
    rollback.go_back(Diverged("not finite"), print)
    assert state.cur_nimg == 16
