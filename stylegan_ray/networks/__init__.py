"""The networks: mapping, synthesis and discriminators, and their builders."""

from stylegan_ray.networks.build import build_discriminator, build_generator, build_mapping, build_synthesis
from stylegan_ray.networks.discriminator import Discriminator
from stylegan_ray.networks.generator import Generator, mix_styles, truncate
from stylegan_ray.networks.growing import GrowingDiscriminator, GrowingSynthesis
from stylegan_ray.networks.mapping import Mapping
from stylegan_ray.networks.recompute import recompute
from stylegan_ray.networks.shapes import level_sizes
from stylegan_ray.networks.synthesis import Synthesis
from stylegan_ray.networks.table import LayerRow, layer_table

__all__ = [
    "Discriminator",
    "Generator",
    "GrowingDiscriminator",
    "GrowingSynthesis",
    "LayerRow",
    "Mapping",
    "Synthesis",
    "build_discriminator",
    "build_generator",
    "build_mapping",
    "build_synthesis",
    "layer_table",
    "level_sizes",
    "mix_styles",
    "recompute",
    "truncate",
]
