"""Losses, penalties and their gradients, per sample, against the original's."""

from functools import partial

import numpy as np
import pytest
import torch
from support import ways
from support.golden_checks import FloatBatch, check_gradients, check_norm, close, read, under
from support.recorded import RecordedDraws

from stylegan_ray.config import load_config
from stylegan_ray.interop.tensorflow import network_from_tf
from stylegan_ray.rng import Place
from stylegan_ray.train.losses import losses_of
from stylegan_ray.train.schedule import training_schedule
from stylegan_ray.train.state import TrainState

pytestmark = pytest.mark.golden

KEYS = {"gamma": "r1_gamma"}


def batch_of(meta, arrays, nets_meta, nets):
    G_kwargs = nets_meta["G_build_kwargs"]
    G = network_from_tf(nets_meta["G_func"], G_kwargs, under(nets, "var:G/"))
    D = network_from_tf(nets_meta["D_func"], nets_meta["D_build_kwargs"], under(nets, "var:D/"))
    network, loss = meta["loss_func"].removeprefix("loss.").split("_", 1)
    num = meta["minibatch_size"]
    cfg = load_config("config-f", {
        f"loss.{network}": loss,
        **{f"loss.{KEYS.get(key, key)}": value for key, value in meta["loss_kwargs"].items()},
        "model.dlatent_avg_beta": G_kwargs.get("dlatent_avg_beta", 0.995),
        "schedule.minibatch_size": num, "schedule.minibatch_gpu": num,
        "train.drange_net": tuple(G_kwargs.get("drange_net", (-1.0, 1.0))),
    })  # fmt: skip
    state = TrainState.around(cfg, G, D)
    if meta["pl_mean_before"] is not None:
        state.pl_mean.fill_(meta["pl_mean_before"])
    schedule = training_schedule(cfg, 0, np.log2(G.resolution[0]))
    object.__setattr__(schedule, "lod", float(nets_meta["lod"]))
    reals, labels = (torch.from_numpy(nets[f"in:{name}"]) for name in ("reals", "d_labels"))
    draws = RecordedDraws(recorded(nets_meta, nets, cfg.loss.pl_minibatch_shrink))
    return FloatBatch(state, cfg, schedule, draws, Place(0, 0, 0), reals, labels)


def recorded(nets_meta, nets, shrink):
    """Draws by purpose; a path length phase that is not shrunk uses the latents of the main phase."""
    main = {"": "in:latents", "/mixed": "in:latents2", "/labels": "in:labels"}
    own = {"": "in:pl_latents", "/mixed": "in:pl_latents2", "/labels": "in:pl_labels"}
    draws = {"pl_noise": [nets["in:pl_noise" if shrink > 1 else "in:pl_noise_full"]]}
    draws |= {"wgan_mix": [nets["in:wgan_mix"].reshape(-1)]}
    for purpose, names, mixing in (
        ("G_main", main, "main"), ("D_main", main, "main"), ("D_reg", main, "main"),
        ("G_reg", own if shrink > 1 else main, "pl" if shrink > 1 else "main"),
    ):  # fmt: skip
        draws |= {f"{purpose}{suffix}": [nets[name]] for suffix, name in names.items()}
        if nets_meta["mixing_draws"]:
            draws[f"{purpose}/cutoff"] = [nets_meta["mixing_draws"][mixing]["cutoff"]]
    return draws


def check(arrays, batch, network, which, losses, nets_meta, nets, tolerance):
    """Whole-gradient norm of a loss or penalty, and every given gradient of a variable."""
    parameters = dict(getattr(batch.state, network).named_parameters())
    found = torch.autograd.grad(losses.mean(), list(parameters.values()), allow_unused=True)
    grads = {
        name: torch.zeros_like(parameters[name]) if grad is None else grad
        for name, grad in zip(parameters, found, strict=True)
    }
    check_norm(grads, arrays[f"out:gradnorm_{which}"], tolerance, which)
    given, variables = under(arrays, f"out:grad_{which}/"), under(nets, f"var:{network}/")
    load = partial(network_from_tf, nets_meta[f"{network}_func"], nets_meta[f"{network}_build_kwargs"])
    check_gradients(grads, given, load, variables, tolerance, which)


@ways.every("losses_traced")
@pytest.mark.golden_files("d_losses", "*__[GD]_*.npz")
def test_loss(golden, golden_path, way):
    meta, arrays = golden
    nets_meta, nets = read(golden_path.parent / meta["nets"])
    batch = batch_of(meta, arrays, nets_meta, nets)
    network = meta["grads_wrt"]
    main, *penalties = losses_of(batch.cfg, network)
    outcome = computed(main, batch)
    close(outcome.loss, arrays["out:loss"][:, 0], 2e-5, "loss")
    if "out:dlatent_avg_after" in arrays and "out:reg" not in arrays:
        beta, w_avg = batch.cfg.model.dlatent_avg_beta, batch.state.G.w_avg
        w_mean = outcome.means[f"{main.purpose}/w"]
        close(w_mean + (w_avg - w_mean) * beta, arrays["out:dlatent_avg_after"], 2e-5, "w_avg")
    for which in ("real", "fake"):
        if f"out:scores_{which}" in arrays:
            ours = outcome.means[f"Loss/scores/{which}"]
            close(ours, arrays[f"out:scores_{which}"].mean(), 1e-4, f"scores_{which}")
    check(arrays, batch, network, "loss", outcome.loss, nets_meta, nets, 1e-4)
    if "out:reg" in arrays:
        (penalty,) = penalties
        check_penalty(arrays, batch, network, penalty, nets_meta, nets)


def computed(loss, batch):
    """What a loss gives for a micro-batch, as training calls it."""
    return batch.state.compiled(loss, batch.state.networks, loss.draw(batch))


def check_penalty(arrays, batch, network, penalty, nets_meta, nets):
    outcome = computed(penalty, batch)
    close(outcome.loss, arrays["out:reg"], 3e-4, "reg")
    if "out:pl_lengths" in arrays:
        lengths = arrays["out:pl_lengths"]
        close(outcome.means["pl_length"], lengths.mean(), 3e-4, "pl_lengths")
        moved = batch.state.pl_mean + batch.cfg.loss.pl_decay * (outcome.means["pl_length"] - batch.state.pl_mean)
        close(moved, arrays["out:pl_mean_after"], 3e-4, "pl_mean")
    check(arrays, batch, network, "reg", outcome.loss, nets_meta, nets, 3e-4)
