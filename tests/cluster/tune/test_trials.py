"""Records, rows and states of trials: what is read back, copied, pinned and freed."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

pytest.importorskip("ray")

from support.toy import toy_config, toy_state

from stylegan_ray.cluster.tune.trials import (
    PINNED,
    Copy,
    Record,
    Row,
    Trial,
    copy_checkpoint,
    end_record,
    free,
    pin_newest,
    rank,
    read_record,
    read_trials,
    rows_of_run,
    spare_runs,
    unpin,
    write_record,
)
from stylegan_ray.config import ConfigError
from stylegan_ray.run_folder import CHECKPOINTS, complete_checkpoints
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import (
    CheckpointError,
    Snapshot,
    newest_checkpoint,
    write_checkpoint,
)


def checkpoint(run: Storage, nimg: int) -> Snapshot:
    """A real state of a small run in a run's folder."""
    cfg = toy_config()
    state = toy_state(cfg)
    state.cur_nimg = nimg
    write_checkpoint(snapshot := Snapshot.of(state, cfg), run.folder(CHECKPOINTS))
    return snapshot


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    trials = Storage.at(tmp_path)
    assert read_record(trials, 3) is None
    record = Record(3, {"loss.r1_gamma": 2.5, "loss.G": "logistic_ns"})
    record = record.with_copy(Copy("token", "trial-001", "ckpt-000000002000", 2.0), {"loss.r1_gamma": 3.0})
    write_record(trials, record)
    assert read_record(trials, 3) == record
    assert (record.name, record.runs, record.start_kimg) == ("trial-003-g1", ["trial-003-g1", "trial-003"], 2.0)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"number": 3}'])
def test_a_damaged_record_is_refused_and_kept(tmp_path, content):
    """To take it for a trial that has not begun would lose its values and its end."""
    trials = Storage.at(tmp_path)
    trials.write("trial-003.json", content)
    with pytest.raises(ConfigError, match=r"trial-003\.json"):
        read_record(trials, 3)
    assert trials.read("trial-003.json") == content


def test_the_first_end_of_a_trial_counts(tmp_path):
    trials = Storage.at(tmp_path)
    write_record(trials, Record(0, {}))
    end_record(trials, 0, "finished")
    end_record(trials, 0, "stopped", "stopped at 1 kimg")
    assert read_record(trials, 0).state == "finished"


def test_rows_come_from_the_files_of_all_runs_and_a_torn_line_is_left_out(tmp_path):
    run = Storage.at(tmp_path)
    run.write("metrics.jsonl", b'{"metric": "fid500_tiny", "value": 3.5, "kimg": 2.0, "total_sec": 9.0}\n{"metric": "f')
    run.write("stats.jsonl", b'{"Progress/kimg": 2.0, "Loss/D/loss": 0.5, "Timing/total_sec": 9.0}\n')
    assert list(rows_of_run(run, "Metrics/fid500_tiny")) == [Row(2.0, 3.5, 9.0)]
    assert list(rows_of_run(run, "Loss/D/loss")) == [Row(2.0, 0.5, 9.0)]
    trials = run.folder("trials")
    write_record(trials, Record(0, {}).with_copy(Copy("t", "trial-001", "ckpt-1", 1.0), {}))
    for name, kimg in (("trial-000", 3.0), ("trial-000-g1", 2.0)):
        line = f'{{"Progress/kimg": {kimg}, "Loss/D/loss": 1.0, "Timing/total_sec": 1.0}}\n'
        trials.write(f"{name}/stats.jsonl", line.encode())
    rows = read_trials(trials, "Loss/D/loss")[0].rows
    assert [(row.kimg, row.generation) for row in rows] == [(3.0, 0), (2.0, 1)]


def test_rows_after_the_one_at_which_a_trial_was_stopped_do_not_count(tmp_path):
    """Its run may go on until it hears of that: so much does not depend on when it was read, or on a kill."""
    trials = Storage.at(tmp_path)
    write_record(trials, Record(0, {}))
    lines = [f'{{"Progress/kimg": {kimg}, "Loss/D/loss": 1.0, "Timing/total_sec": 1.0}}\n' for kimg in (1.0, 2.0, 3.0)]
    trials.write("trial-000/stats.jsonl", "".join(lines).encode())
    assert read_trials(trials, "Loss/D/loss")[0].kimg == 3.0
    end_record(trials, 0, "stopped", "stopped at 2 kimg", 2.0)
    trial = read_trials(trials, "Loss/D/loss")[0]
    assert (trial.kimg, len(trial.rows), trial.state) == (2.0, 2, "stopped")


def test_a_row_that_is_reported_again_is_known():
    trial = Trial(Record(0, {}), [Row(1.0, 5.0, 1.0), Row(2.0, 4.0, 2.0), Row(2.0, 4.0, 2.0, generation=1)])
    assert trial.has(Row(2.0, 4.0, 2.0, generation=1)) and trial.has(Row(9.0, 4.0, 2.0, generation=0))
    assert not trial.has(Row(3.0, 4.0, 2.0, generation=1))


def test_the_best_is_sought_among_those_that_finished():
    ends = [(6, 3.0, "finished"), (1, 1.0, "stopped"), (6, 2.0, "finished"), (6, 0.5, "diverged")]
    trials = [
        Trial(Record(number, {}, state=state), [Row(kimg, value, 1.0)])
        for number, (kimg, value, state) in enumerate(ends)
    ]
    assert [trial.number for trial in rank(trials, higher_is_better=False)] == [2, 0, 1, 3]
    assert [trial.number for trial in rank(trials, higher_is_better=True)] == [0, 2, 1, 3]


def test_a_copied_state_is_exact_and_outlives_the_donors(tmp_path):
    trials = Storage.at(tmp_path)
    donor = trials.folder("trial-000")
    old, new = (checkpoint(donor, nimg) for nimg in (1000, 2000))
    assert pin_newest(donor) == new.name
    checkpoint(donor, 3000)
    free(donor)
    assert copy_checkpoint(trials, "trial-000", new.name, "trial-001-g1")[0] == 2.0
    files = [trials.folder(f"{name}/{new.name}") for name in (f"trial-000/{PINNED}", f"trial-001-g1/{CHECKPOINTS}")]
    for name in ("state.safetensors", "state.json", "config.yaml", "COMPLETE"):
        assert files[0].read(name) == files[1].read(name), name
    state = toy_state(toy_config())
    newest_checkpoint(trials.folder(f"trial-001-g1/{CHECKPOINTS}")).restore(state)
    assert state.cur_nimg == 2000 and all(value.equal(new.tensors[name]) for name, value in state.tensors().items())
    assert complete_checkpoints(trials.folder(f"trial-001-g1/{CHECKPOINTS}")) == [new.name] != [old.name]


def test_pins_are_few_and_never_of_a_damaged_state(tmp_path):
    run = Storage.at(tmp_path)
    assert pin_newest(run) is None
    for nimg in (1000, 2000, 3000, 4000):
        name = checkpoint(run, nimg).name
        assert pin_newest(run) == name
    assert len(complete_checkpoints(run.folder(PINNED))) == 3
    run.write(f"{CHECKPOINTS}/{checkpoint(run, 5000).name}/state.safetensors", b"torn")
    assert pin_newest(run) == name
    run.write(f"{PINNED}/{name}/state.safetensors", b"torn")
    with pytest.raises(CheckpointError, match="damaged"):
        copy_checkpoint(run.folder(".."), os.path.basename(tmp_path), name, "trial-001-g1")


def test_a_stopped_trial_frees_its_disk_and_keeps_its_numbers(tmp_path):
    run = Storage.at(tmp_path)
    checkpoint(run, 1000)
    for name in ("network-snapshot-000001.safetensors", "stats.jsonl", "fakes000001.png", "converted.pt"):
        run.write(name, b"x")
    free(run)
    assert (
        run.names() == ["checkpoints", "converted.pt", "fakes000001.png", "stats.jsonl"]
        and run.names("checkpoints") == []
    )


def test_the_end_of_a_sweep_deletes_pins_and_nothing_else(tmp_path):
    run = Storage.at(tmp_path)
    name = checkpoint(run, 1000).name
    assert pin_newest(run) == name
    run.write("network-final.safetensors", b"x")
    unpin(run)
    assert run.names(PINNED) == [] and run.names(CHECKPOINTS) == [name] and run.exists("network-final.safetensors")


@pytest.mark.parametrize(("state", "spare"), [("open", ["trial-000"]), ("finished", ["trial-000"]), ("stopped", None)])
def test_only_states_that_nobody_continues_are_spare(state, spare):
    record = Record(0, {}).with_copy(Copy("t", "trial-001", "ckpt-1", 1.0), {})
    assert list(spare_runs(replace(record, state=state))) == (spare or record.runs)
