"""The three networks of a configuration."""

import pickle
import re

import torch
from support.pickled import Raw, module

from stylegan_ray.networks import build_discriminator, build_generator


def built(cfg, resolution, num_channels, label_size, seed=0):
    """G, D and G_ema with weights that follow from the seed."""
    torch.manual_seed(seed)
    shape = (resolution, num_channels, label_size)
    return [build(cfg.model, *shape) for build in (build_generator, build_discriminator, build_generator)]


def ada_module(network, model):
    """A network as a module of StyleGAN2-ADA, in opcodes: its arguments, and its tensors under their names there."""
    tree = {}
    for name, tensor in network.state_dict().items():
        *path, leaf = _ada_name(name).split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[leaf] = Raw(pickle.dumps(tensor, 2)[2:-1])  # without the opcodes of its begin and end
    synthesis = network.synthesis if hasattr(network, "synthesis") else network
    kwargs = {
        "c_dim": 0, "img_resolution": synthesis.resolution[0], "img_channels": synthesis.num_channels,
        "z_dim": model.z_dim, "w_dim": model.w_dim,
        "mapping_kwargs": {"num_layers": model.mapping_layers, "layer_features": model.mapping_fmaps},
        "synthesis_kwargs": {"channel_base": 2 * model.fmap_base, "channel_max": model.fmap_max},
    }  # fmt: skip
    if synthesis is network:  # a discriminator
        kwargs = {key: kwargs[key] for key in ("c_dim", "img_resolution", "img_channels")} | kwargs["synthesis_kwargs"]
    return _module(tree, _init_args=(), _init_kwargs=kwargs)


def _ada_name(name):
    name = re.sub(r"\bdense(\d*)\.", lambda match: f"fc{match[1]}.", name)
    return {"w_avg": "mapping.w_avg"}.get(name, re.sub(r"\.constant$", ".const", name))


def _module(tree, **own):
    modules = {name: _module(part) for name, part in tree.items() if type(part) is dict}
    return module(modules, {name: part for name, part in tree.items() if type(part) is not dict}, **own)
