"""The pipeline of adaptive discriminator augmentation (Karras et al. 2020, ADA, appendix B)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from stylegan_ray.augment import bands, color, corruption, geometry
from stylegan_ray.augment.augmentation import Augmentation, Numbers, Parameters
from stylegan_ray.augment.strengths import Strengths
from stylegan_ray.ops import warp2d, warp_margin


@dataclass(frozen=True)
class Pipeline(Augmentation):
    """Blitting, geometry, color, filtering, noise and cutout, in this order, each with probability p by itself."""

    strengths: Strengths = field(default_factory=Strengths)

    uniforms = (*geometry.UNIFORMS, *color.UNIFORMS, *bands.UNIFORMS, *corruption.UNIFORMS)
    normals = (*geometry.NORMALS, *color.NORMALS, *bands.NORMALS, *corruption.NORMALS)

    @property
    def needs_noise(self) -> bool:
        return bool(self.strengths.noise)

    def check_size(self, size: tuple[int, int]) -> None:
        if self.strengths.imgfilter:
            bands.check_size(size)

    def parameters(self, numbers: Numbers, p: float, shape: tuple[int, int, int], fixed_shapes: bool) -> Parameters:
        num_channels, *size = shape
        size, args = (size[0], size[1]), (self.strengths, numbers, p)
        inverse = geometry.inverse_matrix(*args, size)
        found: Parameters = {
            "inverse": inverse,
            "colors": color.color_matrix(*args, num_channels),
            "gains": bands.band_gains(*args),
            "sigma": corruption.noise_sigma(*args),
            "mask": corruption.cutout_mask(*args, size),
        }
        found = {name: value for name, value in found.items() if value is not None}
        if inverse is not None:
            found["margin"] = warp_margin(None if fixed_shapes else inverse, size)
        return found

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        if "inverse" in parameters:
            images = warp2d(images, parameters["inverse"], parameters["margin"])
        if "colors" in parameters:
            images = mix_colors(images, parameters["colors"])
        if "gains" in parameters:
            images = bands.filter_bands(images, parameters["gains"])
        if "sigma" in parameters:
            images = images + parameters["noise"] * parameters["sigma"][:, None, None, None]
        if "mask" in parameters:
            images = images * parameters["mask"]
        return images


def mix_colors(images: Tensor, matrix: Tensor) -> Tensor:
    """The affine map [N,C,C+1] of the C colors of each pixel of images [N,C,H,W]."""
    colors = matrix[:, :, :-1] @ images.flatten(2) + matrix[:, :, -1:]  # [N,C,HW]
    return colors.view_as(images)
