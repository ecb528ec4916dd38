"""Weights & Biases: one run of a project, over Progress/kimg, online or as files of its offline mode."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylegan_ray.report.trackers.covered import reduced_image
from stylegan_ray.report.trackers.protocol import FAKES, About, Point

if TYPE_CHECKING:
    from stylegan_ray.report.trackers.memory import Memory

CLOCK = "Progress/kimg"
SESSION_SEC = 600.0
"""How long an offline session lasts at most. Its file is whole only when it has ended, so a crash loses one session,
whose rows are sent again."""
SEC_TO_CONNECT = 30.0
OFFLINE, DISABLED = ("offline", "dryrun"), "disabled"
"""Values of $WANDB_MODE."""
STEP = "step"
"""What memory.sent calls the last step."""
MOST_LATE = 2000
"""Late values whose steps are remembered; W&B loses those that it had not sent when the process was killed."""


class WeightsAndBiases:
    """Its step is cur_nimg, which increases; a metric that comes later than its tick gets the next free step."""

    title = "Weights & Biases"

    def __init__(self, project: str) -> None:
        self.address = project
        entity, _, self.project = project.rpartition("/")
        self.entity = entity or None
        self.session: Any = None
        """W&B's own run object, which lasts as long as a session."""
        self._is_online = False
        self._about: About | None = None
        self._memory: Memory | None = None
        self._began_at = 0.0
        self._step = -1

    def begin(self, memory: Memory, about: About) -> str | None:
        self._about = about
        self.drop()
        delete_session(memory)
        text = self._choose_mode(memory)
        self._open(memory)
        return text

    def add(self, points: Sequence[Point], memory: Memory) -> bool:
        import wandb

        session = self._opened(memory)
        for point in points:
            row: dict[str, Any] = {**point.scalars, CLOCK: point.nimg / 1000}
            if point.image is not None:
                row[FAKES] = wandb.Image(reduced_image(memory.run, point.image))
            self._step = max(point.nimg, self._step + 1)
            if self._step > point.nimg:
                memory.late += [(series, point.nimg, self._step) for series in sorted(point.series)]
            session.log(row, step=self._step)
        memory.sent[STEP] = self._step
        memory.late = memory.late[-MOST_LATE:]
        if self._is_online:
            return True
        if time.monotonic() - self._began_at < SESSION_SEC:
            return False
        self._close(memory)
        return True

    def add_network(self, path: str, nimg: int) -> None:
        import wandb

        assert self._memory is not None, "begin comes first"
        artifact = wandb.Artifact(f"network-{self._memory.id}", type="model", metadata={"cur_nimg": nimg})
        artifact.add_file(path)
        self._opened(self._memory).log_artifact(artifact)

    def end(self, state: str) -> None:
        assert self._memory is not None, "begin comes first"
        self._opened(self._memory).summary["state"] = state
        self._close(self._memory, exit_code=int(state in ("failed", "diverged")))

    def drop(self) -> None:
        if self.session is not None:
            session, self.session = self.session, None
            with suppress(Exception):  # it has failed already
                session.finish(exit_code=1)

    def _choose_mode(self, memory: Memory) -> str | None:
        """Online where there is a key; returns what the user should know."""
        import wandb

        mode = chosen_mode()
        self._is_online = mode not in OFFLINE
        if mode or wandb.login(prompt=False):
            return None
        self._is_online = False
        return (
            f"warning: {self.title} has no key (WANDB_API_KEY, or wandb login): rows are written to "
            f"{folder_of(memory)}/wandb, and `wandb sync` in that folder sends them"
        )

    def _opened(self, memory: Memory) -> Any:
        if self.session is None:
            self._open(memory)
        return self.session

    def _open(self, memory: Memory) -> None:
        """Begins a session: a folder of files that belong to the run."""
        import wandb

        about, self._memory = self._about, memory
        assert about is not None
        folder = folder_of(memory)
        os.makedirs(folder, exist_ok=True)
        settings = wandb.Settings(
            mode="online" if self._is_online else "offline", reinit="create_new", silent=True, console="off",
            disable_git=True, disable_code=True, x_disable_stats=True, init_timeout=SEC_TO_CONNECT,
        )  # fmt: skip
        self.session = wandb.init(
            project=self.project, entity=self.entity, id=memory.id, name=about.name, group=about.group, dir=folder,
            config=about.cfg.plain(), notes=about.notes, resume="allow", settings=settings,
        )  # fmt: skip
        self._began_at = time.monotonic()
        self.session.define_metric(CLOCK)
        self.session.define_metric("*", step_metric=CLOCK)
        self.session.config.update({"data_set": dict(about.data)}, allow_val_change=True)
        self._step = max(memory.sent.values(), default=-1)
        if self._is_online and self.session.resumed:
            self._step = self.session.starting_step - 1
            memory.sent, memory.late = sent_up_to(self._step, memory), []
            memory.write()
        if not self._is_online:
            memory.session = Path(self.session.dir).parent.name
            memory.write()

    def _close(self, memory: Memory, exit_code: int = 0) -> None:
        """Ends the session; its rows are stored for good."""
        session, self.session = self.session, None
        session.finish(exit_code=exit_code)
        memory.session = None


def sent_up_to(step: int, memory: Memory) -> dict[str, int]:
    """The last clock value of each series that the server has, whose last step this is."""
    sent = {series: min(nimg, step) for series, nimg in memory.sent.items()}
    for series, nimg, at in memory.late:
        if at > step:
            sent[series] = min(sent.get(series, -1), nimg - 1)
    return sent


def chosen_mode() -> str:
    """The mode that the user chose for all programs; empty for none."""
    return os.environ.get("WANDB_MODE", "").strip().lower()


def folder_of(memory: Memory) -> str:
    """Where W&B's folder `wandb` is: that of the run on a disk, else that of W&B's settings, else a temporary one."""
    if memory.run.is_local:
        return memory.run.root
    return os.environ.get("WANDB_DIR") or os.path.join(tempfile.gettempdir(), "stylegan_ray-wandb")


def delete_session(memory: Memory) -> None:
    """Deletes the files of an offline session that a crash has cut short: its rows are sent again."""
    name, memory.session = memory.session, None
    if name and name.startswith("offline-run-") and name.endswith(f"-{memory.id}") and "/" not in name:
        shutil.rmtree(os.path.join(folder_of(memory), "wandb", name), ignore_errors=True)
