"""What a tracker gets of a run, and what it does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from stylegan_ray.config import RunConfig

if TYPE_CHECKING:
    from stylegan_ray.report.trackers.memory import Memory

TICKS, FAKES, NETWORK = "ticks", "fakes", "network"
"""Series of a run; the others are the names of metrics."""


@dataclass(frozen=True)
class About:
    """What a tracker says of a run besides its curves."""

    cfg: RunConfig
    command: str
    data: Mapping[str, Any]
    """Path, fingerprint, size and attribution of the data, as run.json has them."""
    group: str | None = None
    """The sweep that the run is a trial of."""

    @property
    def name(self) -> str:
        return self.cfg.run.name or "run"

    @property
    def notes(self) -> str:
        """A few lines of text for people."""
        lines = [f"Command: {self.command}", f"Data: {self.data.get('path')}, {self.data.get('num_images')} images"]
        return "\n\n".join([*lines, *filter(None, [self.data.get("attribution")])])


@dataclass
class Point:
    """All that a run has stored at one value of its clock."""

    nimg: int
    timestamp: float = 0.0
    """Seconds since 1970, the same whenever the point is read."""
    scalars: dict[str, float] = field(default_factory=dict)
    image: str | None = None
    """The file of a grid of generated images in the run's folder."""
    series: set[str] = field(default_factory=set)
    """The series that have something here."""


class Tracker(Protocol):
    """One run in a tracker. Any call may raise; it is tried again later, with the same points.

    All calls come from one thread.
    """

    title: str
    """For messages."""
    address: str
    """Where the run goes, as files and messages may have it."""

    def begin(self, memory: Memory, about: About) -> str | None:
        """Opens the tracker's run with memory.id, or makes it, and lets memory.sent say what the tracker has.

        May be called again after an error. Returns what the user should know.
        """

    def add(self, points: Sequence[Point], memory: Memory) -> bool:
        """Adds points, oldest first; returns whether all that was added since `begin` outlives this process."""
        ...

    def add_network(self, path: str, nimg: int) -> None:
        """Adds the file of the final network."""

    def end(self, state: str) -> None:
        """The run has ended: done, stopped, diverged or failed. All that was added outlives this process now."""

    def drop(self) -> None:
        """Forgets the connection after an error; never raises."""
