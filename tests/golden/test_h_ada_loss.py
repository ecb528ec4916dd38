"""Loss phases of StyleGAN2-ADA's PyTorch program, through the trainer's own losses: gradients, pl_mean and w_avg.

Tolerances (golden README): gradients and their norms 1e-4, with path lengths or R1 3e-4; w_avg 2e-5.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from support import ways
from support.golden_checks import FloatBatch, check_gradients, check_norm, close, landings, norm_of, under
from support.recorded import RecordedDraws

from stylegan_ray.config import load_config
from stylegan_ray.interop.nvidia import model_config, network_from_ada
from stylegan_ray.rng import Place
from stylegan_ray.train.losses import GradientPenalty, PathLength
from stylegan_ray.train.schedule import training_schedule
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.step import accumulate, move_feedback, phases_of

pytestmark = pytest.mark.golden

LOSS = {
    "style_mixing_prob": ("model.style_mixing_prob", 0.9),
    "r1_gamma": ("loss.r1_gamma", 10),
    "pl_batch_shrink": ("loss.pl_minibatch_shrink", 2),
    "pl_decay": ("loss.pl_decay", 0.01),
    "pl_weight": ("loss.pl_weight", 2),
}
"""Keyword arguments of the port's loss: our key, and its default (loss_c0 leaves all out but the first)."""

PARTS = {"main": "", "reg": "_reg", "both": ""}


def config(meta, num, lazy):
    unknown = set(meta["loss_kwargs"]) - set(LOSS)
    assert not unknown, f"keyword arguments of the loss that are not known here: {unknown}"
    return load_config("config-f", {
        **{key: meta["loss_kwargs"].get(name, default) for name, (key, default) in LOSS.items()},
        "model.label_mode": "separate",
        "model.dlatent_avg_beta": model_config("G", meta["G_kwargs"]).dlatent_avg_beta,
        "schedule.minibatch_size": num, "schedule.minibatch_gpu": num,
        "train.lazy_regularization": lazy,
    })  # fmt: skip


def phase_of(cfg, name, gain, schedule):
    """The trainer's phase for Gmain, Greg, Gboth, Dmain, Dreg or Dboth; `both` is its phase without laziness."""
    part = name[0] + PARTS[name[1:]]
    (phase,) = (phase for phase in phases_of(cfg, name[0], schedule) if phase.part == part)
    return replace(phase, gain=float(gain))


def recorded(arrays, name, phase, cfg):
    """The draws of a phase by purpose, taken from the port's in call order."""
    z, c = arrays["in:gen_z"], arrays["in:gen_c"]
    made = sorted(under(arrays, f"draw:{name}_").items())  # 00_randint, 01_rand, 02_randn_like, ...
    draws = {}

    def take(kind):
        key, value = made.pop(0)
        assert key.split("_", 1)[1] == kind, f"{name} draws {key} where {kind} is due"
        return value

    for loss in phase.losses:
        if isinstance(loss, GradientPenalty):
            continue
        purpose, is_path_length = loss.purpose, isinstance(loss, PathLength)
        num = max(len(z) // cfg.loss.pl_minibatch_shrink, 1) if is_path_length else len(z)
        draws |= {purpose: [z[:num]], f"{purpose}/labels": [c[:num]]}
        if cfg.model.style_mixing_prob > 0:
            cutoff, uniform = take("randint"), take("rand")
            draws[f"{purpose}/mixed"] = [take("randn_like")]
            if uniform < cfg.model.style_mixing_prob:
                draws[f"{purpose}/cutoff"] = [cutoff]
        if is_path_length:
            draws["pl_noise"] = [take("randn_like")]
    assert not made, f"{name} draws more: {made}"
    return RecordedDraws(draws)


def run_phase(meta, arrays, name):
    """The trainer's phase of that name, its configuration, and the state after it."""
    num = len(arrays["in:gen_z"])
    cfg = config(meta, num, lazy=name[1:] != "both")
    G, D = (loader(meta, part)(under(arrays, f"state:{part}/")) for part in ("G", "D"))
    state = TrainState.around(cfg, G, D)
    state.pl_mean.fill_(meta["pl_mean_before"])
    schedule = training_schedule(cfg, 0, np.log2(max(G.resolution)))
    phase = phase_of(cfg, name, meta["phases"][name]["gain"], schedule)
    reals, labels = (torch.from_numpy(arrays[f"in:real_{kind}"]) for kind in ("img", "c"))
    draws = recorded(arrays, name, phase, cfg)
    accumulate(phase, state, FloatBatch(state, cfg, schedule, draws, Place(0, 0, 0), reals, labels))
    move_feedback(phase, state, state.gradients[phase.network].reduce(), torch.tensor(True))
    return phase, cfg, state


def loader(meta, part):
    return partial(network_from_ada, part, meta[f"{part}_kwargs"])


def check_norms(grads, places, norms, tolerance, name):
    """Norm of every variable's gradient, relative to itself or, if larger, to a hundredth of the whole norm."""
    floor = norm_of(grads) / 100
    for variable, expected in norms.items():
        ((key, where),) = places[variable].items()
        norm, expected = float(grads[key][where].norm()), expected or 0.0  # null: not connected
        assert abs(norm - expected) <= tolerance * max(expected, floor), f"{name}: gradient norm of {variable}"


def check_pl_mean(after, expected, before, decay, name):
    """Compares the path lengths that moved pl_mean; a phase without them leaves it at `before`."""
    ours, theirs = (before + (value - before) / decay for value in (after.double(), expected.astype(np.float64)))
    close(ours, theirs, 1e-4, f"{name}: path lengths in pl_mean")


@ways.every("losses_traced")
@pytest.mark.golden_files("h_ada_networks", "loss_*.npz")
def test_phases(golden, way):
    meta, arrays = golden
    variables = {part: under(arrays, f"state:{part}/") for part in ("G", "D")}
    places = {
        part: landings(loader(meta, part), state, [name for name in state if not name.endswith("resample_filter")])
        for part, state in variables.items()
    }
    for name, expected in meta["phases"].items():
        phase, cfg, state = run_phase(meta, arrays, name)
        part = phase.network
        has_penalty = any(isinstance(loss, (PathLength, GradientPenalty)) for loss in phase.losses)
        tolerance = 3e-4 if has_penalty else 1e-4
        grads = {key: value.grad for key, value in getattr(state, part).named_parameters()}
        landed = {key for variable in expected["grad_norms"] for key in places[part][variable]}
        assert landed == set(grads), f"{name}: norms are given for every parameter"
        check_norm(grads, arrays[f"out:{name}_gradnorm"], tolerance, name)
        check_norms(grads, places[part], expected["grad_norms"], tolerance, name)
        given = under(arrays, f"out:{name}_grad/")
        check_gradients(grads, given, loader(meta, part), variables[part], tolerance, name)
        after = arrays[f"out:{name}_pl_mean_after"]
        check_pl_mean(state.pl_mean, after, meta["pl_mean_before"], cfg.loss.pl_decay, name)
        close(state.G.w_avg, arrays[f"out:{name}_w_avg_after"], 2e-5, f"{name}: w_avg")
