"""A sweep of toy trials under the real Tuner: real checkpoints and rows, and a loop that sleeps in place of training.

Run as a script: toy_sweep.py CHECKPOINTS SCHEDULER SEARCH SAMPLES AT_ONCE TICK_SEC.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from safetensors.torch import save
from support.toy import toy_config, toy_state

from stylegan_ray.cluster.resources import Share
from stylegan_ray.cluster.tune.options import sweep_options
from stylegan_ray.cluster.tune.progress import SweepView
from stylegan_ray.cluster.tune.run import TRIALS, Sweep, run_trials, use_tune_defaults
from stylegan_ray.cluster.tune.trial import Fitting, TrialRun, TrialSpec
from stylegan_ray.cluster.tune.trials import read_trials
from stylegan_ray.run_folder import CHECKPOINTS
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, newest_checkpoint, write_checkpoint

ALONE = Share(1, 1.0, 0, 1)
TOTAL_KIMG = 8
OBJECTIVE = "Loss/D/loss"


def objective_at(values: dict[str, Any], kimg: float) -> float:
    """Best with gamma 5 and a learning rate of G of 0.003."""
    gamma, rate = values["loss.r1_gamma"], values["schedule.G_lrate"]
    return abs(math.log(gamma / 5)) + abs(math.log(rate / 0.003)) + 10 / kimg


class ToyFitting(Fitting):
    """Ticks of a kimg: a row in stats.jsonl, a checkpoint, a report, and a line in ticks.jsonl, which is never cut."""

    def train(self) -> tuple[str, str]:
        run, cfg = self.trial_run.storage, toy_config()
        state, checkpoints, values = toy_state(cfg), run.folder(CHECKPOINTS), self.trial_run.cfg
        newest = newest_checkpoint(checkpoints)
        if newest is not None:
            newest.restore(state)
        self.note({"start": state.cur_nimg, "sha": digest(newest) if newest else None})
        numbers = {"loss.r1_gamma": values.loss.r1_gamma, "schedule.G_lrate": values.schedule.G_lrate}
        rows = [row for row in self.rows() if row["Progress/kimg"] <= state.cur_nimg / 1000]
        while state.cur_nimg < 1000 * TOTAL_KIMG:
            time.sleep(self.spec.cfg["tick_sec"])
            state.cur_nimg += 1000
            state.G.load_state_dict({name: value + 1e-3 for name, value in state.G.state_dict().items()})
            kimg = state.cur_nimg / 1000
            row = {"Progress/kimg": kimg, "Timing/total_sec": kimg, OBJECTIVE: objective_at(numbers, kimg)}
            rows.append(row)
            run.write("stats.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode())
            write_checkpoint(Snapshot.of(state, cfg), checkpoints)
            self.note({"tick": kimg})
            self.tick(row)
            if self.is_ending and kimg < TOTAL_KIMG:
                return self.ends("interrupted")
        run.write("network-final.safetensors", save({"w": torch.zeros(1)}, {"cur_nimg": str(state.cur_nimg)}))
        return self.ends("finished")

    def ends(self, state: str) -> tuple[str, str]:
        self.trial_run.storage.write("run.json", json.dumps({"ended": state}).encode())
        return state, ""

    def rows(self) -> list[dict[str, Any]]:
        run = self.trial_run.storage
        return [json.loads(line) for line in run.read("stats.jsonl").splitlines()] if run.exists("stats.jsonl") else []

    def note(self, event: dict[str, Any]) -> None:
        path = Path(self.trial_run.storage.path("ticks.jsonl"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"{json.dumps({**event, 'time': time.time()})}\n")


def digest(snapshot: Snapshot) -> str:
    return hashlib.sha256(snapshot.files()["state.safetensors"]).hexdigest()


class ToySpec(TrialSpec):
    """Configurations of the trials start from a preset that is complete as it is."""

    def config(self, record):
        return self.plain().config(record)

    def run(self, record):
        return self.plain().run(record)

    def plain(self) -> TrialSpec:
        values = {key: value for key, value in self.cfg.items() if key != "tick_sec"}
        return TrialSpec(**{**self.__dict__, "cfg": values})


class ToyRun(TrialRun):
    """A trial with toy training."""

    def fitting_of(self, run):
        return ToyFitting(run, self.spec)


def plan_of(scheduler: str, search: str, samples: int):
    words = ["--scheduler", scheduler, "--search", search, "--samples", str(samples), "--objective", OBJECTIVE]
    return sweep_options([*words, "--train.total_kimg", str(TOTAL_KIMG), "--perturb-kimg", "2", "--reduction", "2"])


def main(folder: str, scheduler: str, search: str, samples: str, at_once: str, tick_sec: str) -> int:
    use_tune_defaults()
    plan = plan_of(scheduler, search, int(samples))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    trials = f"{folder}/{TRIALS}"
    spec = ToySpec(
        cfg={**plan.cfg.model_dump(mode="json"), "tick_sec": float(tick_sec)}, dataset=None, sweep=folder,
        trials=trials, share=ALONE, clearance=None, objective=OBJECTIVE, command="",
        waits_for_checkpoints=scheduler == "pbt",
    )  # fmt: skip
    view = SweepView(read_trials(Storage.at(trials), OBJECTIVE), OBJECTIVE, plan.num_samples, False)
    trainable = tune.with_parameters(ToyRun, spec=spec)
    return run_trials(Sweep(plan, plan.cfg, None, folder), trainable, ALONE, int(at_once), view)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
