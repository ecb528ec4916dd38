import pytest
import torch
from support.toy import toy_config

from benchmarks import step
from benchmarks.growing import images_per_sec_by_resolution
from stylegan_ray.config import load_config
from stylegan_ray.networks import layers
from stylegan_ray.ops import bias_act

SMALL = {"data.resolution": 8, "data.cond": True}


def test_figures_tell_the_speed_of_a_whole_cycle():
    cfg = toy_config(**SMALL, **{"schedule.minibatch_size": 4})
    figures, bars = step.measure(step.Options(repeats=3, threads=1, device="cpu", memory=False), cfg)
    phases = figures["phases"]
    assert {part: phase["interval"] for part, phase in phases.items()} == {"G": 1, "G_reg": 2, "D": 1, "D_reg": 3}
    for phase in phases.values():
        for name in ("plain", "fast", "bf16"):
            assert len(phase[f"sec_{name}"]) == 3 and min(phase[f"sec_{name}"]) > 0
            assert phase[f"flops_{name}"] > 0
    sec = sum(sorted(phase["sec_fast"])[1] / phase["interval"] for phase in phases.values())
    assert figures["img_s_fast"] == pytest.approx(4 / sec)
    assert figures["sec_per_kimg_fast"] == pytest.approx(1000 * sec / 4)
    assert figures["images_per_step"] == 4 and figures["threads"] == 1 and figures["label_size"] == 10
    assert [(bar["name"], bar["bar"]) for bar in bars] == [
        ("fast / plain, at least", 1.3), ("bf16 / plain, at least", 1.8)
    ]  # fmt: skip
    assert bars[0]["value"] == pytest.approx(figures["fast_over_plain"])
    assert figures["fast_over_plain"] == pytest.approx(figures["img_s_fast"] / figures["img_s_plain"])
    assert layers.bias_act is bias_act


def test_variants_change_what_their_names_say_and_nothing_else():
    cfg = toy_config(**SMALL, **{"model.num_lowp_res": 1})
    plain, fast, bf16, fp16, tf32, compiled = (
        step.configured(cfg, name) for name in ("plain", "fast", "bf16", "fp16", "tf32", "compiled_bf16")
    )
    assert plain == fast and not fast.model.num_lowp_res and fast.train.compile is False
    assert bf16 == fast.with_overrides({"model.num_lowp_res": 1})
    assert step.configured(toy_config(**SMALL), "bf16").model.num_lowp_res == 4
    assert (fp16.model.lowp_dtype, fp16.model.conv_clamp) == ("float16", 256)
    assert tf32 == fast.with_overrides({"train.allow_tf32": True})
    assert compiled == bf16.with_overrides({"train.compile": True})


def test_variants_alternate_in_coming_first():
    order = list(step.alternating(["G", "D"], ["plain", "fast"], 2))
    assert order[:2] == [("G", "plain"), ("G", "fast")] and order[4:6] == [("G", "fast"), ("G", "plain")]
    assert len(order) == 8


def test_without_lazy_regularization_there_are_two_phases():
    cfg = toy_config(**SMALL, **{"train.lazy_regularization": False})
    assert list(step.Subject(cfg, torch.device("cpu")).phases) == ["G", "D"]


def test_memory_of_a_phase_and_its_bar():
    used = step.peak_of_phase(toy_config(**SMALL), "cpu", "G_reg", "plain", 1)
    assert 0 < used["mem_before_gb"] <= used["mem_peak_gb"] < 16
    phases = {
        "G": {"mem_peak_gb_plain": 2.0, "mem_peak_gb_fast": 1.0},
        "D": {"mem_peak_gb_plain": 3.0, "mem_peak_gb_fast": 3.1},
    }
    figures = {"img_s_plain": 1.0, "img_s_fast": 1.4}
    speed, memory = step.bars(figures, phases, ("plain", "fast"))
    assert speed["holds"] and not memory["holds"] and (memory["value"], memory["bar"]) == (3.1, 3.0)


def test_early_phases_of_a_growing_network_are_timed_by_resolution():
    keys = {"data.resolution": 16, "model.fmap_base": 64, "model.fmap_max": 8, "model.mapping_layers": 2}
    keys |= {"schedule.minibatch_size": 4, "schedule.minibatch_gpu": 4}
    keys |= {"schedule.minibatch_size_dict": {}, "schedule.minibatch_gpu_dict": {}}
    cfg = load_config("config-d", keys)
    speeds = images_per_sec_by_resolution(cfg, torch.device("cpu"), 1)
    assert speeds.keys() == {"8", "16"} and min(speeds.values()) > 0
    assert images_per_sec_by_resolution(toy_config(**SMALL), torch.device("cpu"), 1) == {}
    assert step.possible(("plain", "fast", "bf16", "compiled"), cfg) == ("plain", "fast")
