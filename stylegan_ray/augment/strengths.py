"""How often and how far ADA's pipeline changes images, and the named pipelines."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Strengths:
    """Factors on the probability p of each augmentation, 0 for never, and the ranges of their parameters.

    The defaults of ranges are those of the paper (Karras et al. 2020, ADA, appendix B).
    """

    xflip: float = 0
    """Mirrors left and right."""
    rotate90: float = 0
    """Rotates by multiples of 90 degrees."""
    xint: float = 0
    """Translates by whole pixels."""
    scale: float = 0
    """Scales both sides alike."""
    rotate: float = 0
    """Rotates by any angle, before and after anisotropic scaling."""
    aniso: float = 0
    """Scales the sides by inverse factors."""
    xfrac: float = 0
    """Translates by fractions of pixels."""
    brightness: float = 0
    contrast: float = 0
    lumaflip: float = 0
    """Inverts the luma."""
    hue: float = 0
    saturation: float = 0
    imgfilter: float = 0
    """Amplifies or weakens frequency bands."""
    noise: float = 0
    """Adds normal noise."""
    cutout: float = 0
    """Sets a square to 0."""

    xint_max: float = 0.125
    """Largest translation, in sides of the image."""
    scale_std: float = 0.2
    """Standard deviation of log2 of the scale; also of aniso_std."""
    rotate_max: float = 1
    """Largest angle, in half turns; also hue_max."""
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    """Standard deviation of the translation, in sides of the image."""
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    """Standard deviation of log2 of the contrast; also saturation_std."""
    hue_max: float = 1
    saturation_std: float = 1
    imgfilter_bands: tuple[float, ...] = (1, 1, 1, 1)
    """Factors on the probability of each band, from the lowest frequencies."""
    imgfilter_std: float = 1
    """Standard deviation of log2 of a band's gain."""
    noise_std: float = 0.1
    """Standard deviation of the standard deviation of noise."""
    cutout_size: float = 0.5
    """Side of the square, in sides of the image."""

    @classmethod
    def of(cls, pipe: str) -> Strengths:
        """The named pipeline, each of its augmentations at strength 1."""
        return replace(cls(), **dict.fromkeys(PIPES[pipe], 1.0))

    def any_of(self, *names: str) -> bool:
        """Whether one of these augmentations can happen."""
        return any(getattr(self, name) for name in names)


BLIT = ("xflip", "rotate90", "xint")
GEOMETRY = ("scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")

PIPES: dict[str, tuple[str, ...]] = {
    "blit": BLIT,
    "geom": GEOMETRY,
    "color": COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": BLIT + GEOMETRY,
    "bgc": BLIT + GEOMETRY + COLOR,
    "bgcf": (*BLIT, *GEOMETRY, *COLOR, "imgfilter"),
    "bgcfn": (*BLIT, *GEOMETRY, *COLOR, "imgfilter", "noise"),
    "bgcfnc": (*BLIT, *GEOMETRY, *COLOR, "imgfilter", "noise", "cutout"),
}
"""Augmentations of strength 1 by the value of augment.pipe."""
