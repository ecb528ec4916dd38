"""The schedule of every configuration, at every resolution, against the original's."""

import json
import math

import numpy as np
import pytest

from stylegan_ray.config import RunConfig, validated
from stylegan_ray.train.schedule import lazy_ratio, training_schedule

pytestmark = pytest.mark.golden

RENAMED = {"minibatch_size_base": "minibatch_size", "minibatch_gpu_base": "minibatch_gpu"}
RENAMED |= {"G_lrate_base": "G_lrate", "D_lrate_base": "D_lrate", "tick_kimg_base": "tick_kimg"}


@pytest.fixture
def expected(golden_folder):
    path = golden_folder / "c_schedule" / "schedule.json"
    assert path.is_file(), f"no golden file {path}"
    return json.loads(path.read_text())


def config(sched_args: dict, **train) -> RunConfig:
    """Our configuration for the original's keyword arguments; progressive growing needs no network here."""
    schedule = {RENAMED.get(key, key): value for key, value in sched_args.items()}
    cfg = validated({"train": train})
    return cfg.model_copy(update={"schedule": cfg.schedule.model_validate(schedule)})


def test_schedule_of_every_configuration(expected):
    assert expected["schedule"]
    for name, by_resolution in expected["schedule"].items():
        cfg = config(expected["configs"][name]["sched_args"])
        for resolution_log2, quantities in by_resolution.items():
            for i, cur_nimg in enumerate(expected["cur_nimg"]):
                ours = training_schedule(cfg, cur_nimg, int(resolution_log2))
                for quantity, values in quantities.items():
                    assert math.isclose(getattr(ours, quantity), values[i], rel_tol=1e-9, abs_tol=1e-9), (
                        name, resolution_log2, cur_nimg, quantity,
                    )  # fmt: skip


def test_other_schedule_arguments(expected):
    assert expected["extra"]
    for case in expected["extra"]:
        cfg = config(case["sched_args"])
        for cur_nimg, row in zip(case["cur_nimg"], case["rows"], strict=True):
            ours = training_schedule(cfg, cur_nimg, case["resolution_log2"])
            for quantity, value in row.items():
                assert math.isclose(getattr(ours, quantity), value, rel_tol=1e-9, abs_tol=1e-9), (case, quantity)


def test_smoothing_beta(expected):
    for case in expected["Gs_beta"]:
        sched = {"G_smoothing_kimg": case["G_smoothing_kimg"], "minibatch_size": case["minibatch_size"]}
        ours = training_schedule(config({**sched, "minibatch_gpu": 1}), 0, 5).G_smoothing_beta
        assert abs(ours - case["Gs_beta"]) <= np.spacing(np.float32(1.0))  # the original computes it in float32


def test_lazy_regularization_corrections(expected):
    for case in expected["lazy_adjust"]:
        ratio = lazy_ratio(config({}, G_reg_interval=case["reg_interval"]), "G")
        assert math.isclose(ratio, case["mb_ratio"], rel_tol=1e-9)
        assert math.isclose(case["beta1"] ** ratio, case["beta1_adj"], rel_tol=1e-9)
        assert math.isclose(case["beta2"] ** ratio, case["beta2_adj"], rel_tol=1e-9)
        assert math.isclose(case["lr"] * ratio, case["lr_adj"], rel_tol=1e-7)  # float32 in the original
