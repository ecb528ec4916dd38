"""Whole training trajectories of the original, through the trainer's own iteration."""

from functools import partial

import numpy as np
import pytest
import torch
from support import ways
from support.golden_checks import landings, under
from support.recorded import RecordedDraws

from stylegan_ray.config import load_config
from stylegan_ray.interop.tensorflow import network_from_tf
from stylegan_ray.train.optim import update_ema
from stylegan_ray.train.schedule import training_schedule
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.step import accumulate, due_phases, move_feedback, place, train_iteration

pytestmark = pytest.mark.golden


def config(meta):
    settings, kwargs = meta["settings"], meta["G_build_kwargs"]
    lrate, adam = settings["base_lr"], settings["adam"]
    return load_config("config-f", {
        "model.style_mixing_prob": kwargs.get("style_mixing_prob", 0.9),
        "model.dlatent_avg_beta": kwargs.get("dlatent_avg_beta", 0.995),
        "loss.r1_gamma": settings["gamma"],
        "optim.beta1": adam["beta1"], "optim.beta2": adam["beta2"], "optim.epsilon": adam["epsilon"],
        "schedule.minibatch_size": settings["minibatch_size"], "schedule.minibatch_gpu": settings["minibatch_gpu"],
        "schedule.G_lrate": lrate, "schedule.D_lrate": lrate, "schedule.G_lrate_dict": {}, "schedule.D_lrate_dict": {},
        "schedule.G_smoothing_kimg": settings["G_smoothing_kimg"],
        "train.G_reg_interval": settings["G_reg_interval"], "train.D_reg_interval": settings["D_reg_interval"],
        "train.lazy_regularization": settings.get("lazy", settings["lazy_regularization"]),
    })  # fmt: skip


def load(meta, part):
    """Imports G, D or Gs, which is a G."""
    kind = "D" if part == "D" else "G"
    return partial(network_from_tf, meta[f"{kind}_func"], meta[f"{kind}_build_kwargs"])


def variables_of(part, arrays, prefix):
    """The variables of G, D or Gs under a prefix; what is not there is as at the start."""
    start = under(arrays, f"init:{'D' if part == 'D' else 'G'}/")
    return start | under(arrays, f"{prefix}{part}/")


def start(meta, arrays):
    cfg = config(meta)
    G, D = (load(meta, part)(variables_of(part, arrays, "init:")) for part in ("G", "D"))
    return cfg, TrainState.around(cfg, G, D)


def draws_of(arrays, i, k):
    """What the original drew in iteration i, with the k-th path length phase."""
    recorded = {"G_main": arrays["in:g_latents"][i], "D_main": arrays["in:d_latents"][i]}
    num = len(arrays["in:pl_latents"])
    recorded |= {"G_reg": arrays["in:pl_latents"][min(k, num - 1)]}
    recorded |= {"pl_noise": arrays["in:pl_noise"][min(k, num - 1)]}
    if "in:g_labels" in arrays:
        recorded |= {"G_main/labels": arrays["in:g_labels"][i]}
        recorded |= {"G_reg/labels": arrays["in:pl_labels"][min(k, num - 1)]}
    return RecordedDraws(recorded)


def reals_of(arrays, i):
    images = torch.from_numpy(arrays["in:reals_uint8"][i])
    labels = arrays["in:r_labels"][i] if "in:r_labels" in arrays else np.zeros((*images.shape[:2], 0), np.float32)
    labels = torch.from_numpy(labels)
    return list(zip(images, labels, strict=True))


LOGGED = {
    "G_loss": "Loss/G/loss", "G_reg": "Loss/G/reg", "D_loss": "Loss/D/loss", "D_reg": "Loss/D/reg",
    "pl_lengths_mean": "pl_length", "pl_mean": "Loss/pl_mean",
    "scores_real": "Loss/scores/real", "scores_fake": "Loss/scores/fake",
}  # fmt: skip


def check_log(arrays, i, stats, state, race):
    tolerance = 1e-4 if i < 10 else 1e-3
    for name, ours in LOGGED.items():
        expected = float(np.mean(arrays[f"log:{name}"][i]))
        if np.isnan(expected):
            assert ours not in stats, f"{name} is not due in iteration {i}"
        elif ours in stats:
            assert abs(float(stats[ours]) - expected) <= tolerance, (name, i)
        else:
            assert name == "pl_mean", (name, i)  # logged every iteration, moved in path length phases
            assert abs(float(state.pl_mean) - expected) <= tolerance
    if not race:
        np.testing.assert_allclose(state.G.w_avg.numpy(), arrays["log:dlatent_avg"][i], atol=tolerance)
        np.testing.assert_allclose(state.G_ema.w_avg.numpy(), arrays["log:Gs_dlatent_avg"][i], atol=tolerance)


def check_final(meta, arrays, state, race):
    """Every final tensor that is given, by importing it and finding where it lands."""
    ours = {"G": state.G.state_dict(), "D": state.D.state_dict(), "Gs": state.G_ema.state_dict()}
    variables = {part: variables_of(part, arrays, "final:") for part in ours}
    expected = {part: load(meta, part)(variables[part]).state_dict() for part in ours}
    names = [name.removeprefix("final:") for name in arrays if name.startswith("final:")]
    assert names and {name.partition("/")[0] for name in names} <= set(ours)
    skipped = ("lod", "dlatent_avg") if race else ("lod",)  # our networks take lod as an argument
    for part in ours:
        given = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        places = landings(load(meta, part), variables[part], [name for name in given if name not in skipped])
        for variable, places_of_one in places.items():
            for key, where in places_of_one.items():
                check_tensor(meta, f"{part}/{variable}", expected[part][key][where], ours[part][key][where])


def check_tensor(meta, name, target, mine):
    rms = max(meta["final_rms"].get(name, 0.0), float(target.square().mean().sqrt()))
    tolerance = 1e-3 * rms + 10 * meta.get("self_noise_final", {}).get(name, 0.0)
    assert (mine - target).abs().max() <= tolerance, name


def iterate(meta, arrays, run_iteration):
    cfg, state = start(meta, arrays)
    race = not cfg.train.lazy_regularization
    for i in range(meta["settings"]["iters"]):
        k = i // cfg.train.G_reg_interval if cfg.train.lazy_regularization else i
        stats = run_iteration(cfg, state, i, draws_of(arrays, i, k), reals_of(arrays, i))
        check_log(arrays, i, stats, state, race)
    check_final(meta, arrays, state, race)


@ways.every("losses_traced", "losses_compiled")
@pytest.mark.golden_files("e_trajectory", "*.npz")
def test_trajectory(golden, way):
    meta, arrays = golden
    if meta["settings"]["rounds"] > 1:
        iterate(meta, arrays, original_rounds)
    else:
        iterate(meta, arrays, lambda cfg, state, i, draws, reals: train_iteration(state, cfg, reals, draws))


def original_rounds(cfg, state, i, draws, reals):
    """The original's gradient accumulation: feedback moves in every round, D regularization sees the last reals only.

    The trainer differs on purpose (law 3): feedback once per phase, D regularization on all reals.
    """
    schedule = training_schedule(cfg, state.cur_nimg, np.log2(max(state.G.resolution)))
    stats = {}
    for network in ("G", "D"):
        for phase in due_phases(cfg, network, schedule, i):
            shown = [reals[-1]] * len(reals) if phase.part == "D_reg" else reals
            stats |= rounds_of_a_phase(phase, state, place(shown, state, cfg, draws, schedule))
        if network == "G":
            update_ema(state.G_ema, state.G, schedule.G_smoothing_beta)
    state.cur_nimg += schedule.minibatch_size
    return stats


def rounds_of_a_phase(phase, state, batches):
    """One micro-batch a round; feedback moves by the means of its round."""
    gradients, rounds = state.gradients[phase.network], []
    total = torch.zeros_like(gradients.flat)
    for batch in batches:
        gradients.zero()
        accumulate(phase, state, batch)
        means = {name: value / batch.share for name, value in gradients.reduce().items()}
        rounds.append(move_feedback(phase, state, means, torch.tensor(True)))
        total += gradients.flat
    gradients.flat.copy_(total)
    state.optimizers[phase.network].step(phase.lrate, gradients.are_finite())
    means = {name: torch.stack([stats[name] for stats in rounds]).mean() for name in rounds[0]}
    if "Loss/pl_mean" in means:
        means["Loss/pl_mean"] = rounds[-1]["Loss/pl_mean"]
    return means
