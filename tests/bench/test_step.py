import torch
from support.toy import toy_config

from stylegan_ray.bench import step
from stylegan_ray.bench.growing import images_per_sec_by_resolution
from stylegan_ray.config import load_config
from stylegan_ray.networks import layers
from stylegan_ray.ops import bias_act

SMALL = {"data.resolution": 8, "data.cond": True}


def test_figures_tell_the_speed_of_a_whole_cycle():
    cfg = toy_config(**SMALL)
    figures, bars = step.measure(step.Options(repeats=3, threads=1, device="cpu", memory=False), cfg)
    phases = figures["phases"]
    assert {part: phase["interval"] for part, phase in phases.items()} == {"G": 1, "G_reg": 2, "D": 1, "D_reg": 3}
    for phase in phases.values():
        assert len(phase["sec_plain"]) == len(phase["sec_fast"]) == 3 and min(phase["sec_fast"]) > 0
        assert phase["flops_plain"] > phase["flops_fast"] > 0
    sec = sum(sorted(phase["sec_fast"])[1] / phase["interval"] for phase in phases.values())
    assert figures["img_s_fast"] == 8 / sec
    assert figures["images_per_step"] == 8 and figures["threads"] == 1 and figures["label_size"] == 10
    assert not bars and layers.bias_act is bias_act


def test_turns_alternate_which_variant_comes_first():
    subject = step.Subject(toy_config(**SMALL), torch.device("cpu"))
    turns = list(step.in_turns(subject, 2))
    assert turns[:2] == [("G", "plain"), ("G", "fast")] and turns[8:10] == [("G", "fast"), ("G", "plain")]
    assert len(turns) == 16


def test_without_lazy_regularization_there_are_two_phases():
    cfg = toy_config(**SMALL, **{"train.lazy_regularization": False})
    assert list(step.Subject(cfg, torch.device("cpu")).phases) == ["G", "D"]


def test_memory_of_a_turn():
    used = step.peak_of_turn(toy_config(**SMALL), "cpu", "G_reg", "plain", 1)
    assert 0 < used["mem_before_gb"] <= used["mem_peak_gb"] < 16


def test_early_phases_of_a_growing_network_are_timed_by_resolution():
    cfg = load_config("config-d", {"data.resolution": 16, "model.fmap_base": 64, "model.fmap_max": 8})
    speeds = images_per_sec_by_resolution(cfg, torch.device("cpu"), 1)
    assert speeds.keys() == {"8", "16"} and min(speeds.values()) > 0
    assert images_per_sec_by_resolution(toy_config(**SMALL), torch.device("cpu"), 1) == {}
