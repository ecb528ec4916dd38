"""Errors about a data set."""

from __future__ import annotations

from stylegan_ray.config import ConfigError
from stylegan_ray.untrusted import printable


class DataError(ConfigError):
    """A data set that cannot be trained on as configured; the command exits with status 2."""


class MissingDecoder(ValueError):  # noqa: N818 - it describes an image
    """An image that the installed Pillow cannot decode though another one could: no fault of the file."""


class BadImage(ValueError):  # noqa: N818 - it describes an image; data.on_bad_image decides whether it is an error
    """One image that cannot be decoded or does not have the shape of the others; names the file and the reason."""

    def __init__(self, name: str, reason: str, position: int | None = None) -> None:
        super().__init__(name, reason, position)
        self.name, self.reason, self.position = name, reason, position

    def __str__(self) -> str:
        where = "" if self.position is None else f" (sample position {self.position})"
        image = f"image '{printable(self.name)}'{where}"
        return f"{image}: {self.reason}; data.on_bad_image=skip uses the next good image instead"
