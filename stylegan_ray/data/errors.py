"""What can be wrong with a data set."""

from __future__ import annotations

from stylegan_ray.config import ConfigError


class DataError(ConfigError):
    """A data set that cannot be trained on as configured; the command exits with status 2."""


class BadImage(ValueError):  # noqa: N818 - it names a picture, and a policy decides whether it is an error
    """One picture that cannot be decoded or does not fit the others; names the file and the reason."""

    def __init__(self, name: str, reason: str, position: int | None = None) -> None:
        super().__init__(name, reason, position)
        self.name, self.reason, self.position = name, reason, position

    def __str__(self) -> str:
        where = "" if self.position is None else f" (sample position {self.position})"
        return f"picture {self.name!r}{where}: {self.reason}; data.on_bad_image=skip shows the next good one instead"
