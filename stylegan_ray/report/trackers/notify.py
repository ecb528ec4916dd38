"""Notifications: a JSON by HTTP POST when a run ends, fails, rolls back or has a new best value of a metric."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stylegan_ray.credentials import host_of
from stylegan_ray.jsonl import dated_metric_rows, nimg_of_row, rows_so_far
from stylegan_ray.metrics.names import is_new_best
from stylegan_ray.report.trackers.protocol import About, Point
from stylegan_ray.run_folder import (
    FAULTS,
    METRICS,
    how_ended,
    newest_nimg,
)
from stylegan_ray.storage import one_line

if TYPE_CHECKING:
    from stylegan_ray.report.trackers.memory import Memory

TOKEN = "STYLEGAN_RAY_NOTIFY_TOKEN"
"""Variable with a token that goes into the header Authorization, for receivers that want one."""
SEC_TO_ANSWER = 20.0
ROLLBACKS = "rollbacks"
"""What memory.sent calls the number of rollbacks that were sent."""


class Notifier:
    """Posts {"event", "run", "kimg", "text", ...}; `text` and `content` make chats show it.

    The address may be a secret, so messages and files have its host only. An event is sent when a complete checkpoint
    covers it; after a crash in between it may be sent again, with the same `id`.
    """

    title = "report.notify"

    def __init__(self, address: str) -> None:
        self.url, self.address = address, host_of(address)
        self._posted: set[str] = set()

    def begin(self, memory: Memory, about: About) -> str | None:
        self.about, self.memory = about, memory
        if not memory.sent:  # what happened before somebody asked is no news
            memory.sent = {ROLLBACKS: len(self._rollbacks()), **self._newest()}
        return None

    def add(self, points: Sequence[Point], memory: Memory) -> bool:
        rows = dated_metric_rows(memory.run, METRICS)
        for point in points:
            for key, value in point.scalars.items():
                if key.startswith("Metrics/"):
                    self._add_metric(key.removeprefix("Metrics/"), value, point.nimg, rows)
        self._add_rollbacks()
        return True

    def add_network(self, path: str, nimg: int) -> None:
        """A network is no event."""

    def end(self, state: str) -> None:
        self._add_rollbacks()
        nimg = newest_nimg(self.memory.run) or 0
        failed = state in ("failed", "diverged")
        reason = (how_ended(self.memory.run) or "").partition(": ")[2]
        text = f"{self.about.name}: {state} at {nimg / 1000:g} kimg{f': {reason}' if reason else ''}"
        event = {"event": "failure" if failed else "end", "state": state, "reason": reason}
        self._post(f"end-{nimg}-{state}", nimg, text, event)

    def drop(self) -> None:
        """There is no connection."""

    def _add_metric(self, name: str, value: float, nimg: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Posts a value that is better than all before it, of which there are some."""
        before = [
            row["value"]
            for row in rows
            if row.get("metric") == name and row.get("value") is not None and nimg_of_row(row) < nimg
        ]
        if not before or not is_new_best(name, value, before):
            return
        text = f"{self.about.name}: new best {name} {value:.4g} at {nimg / 1000:g} kimg"
        event = {"event": "new best", "metric": name, "value": value}
        self._post(f"best-{name}-{nimg}", nimg, text, event)

    def _add_rollbacks(self) -> None:
        found = self._rollbacks()
        for number in range(self.memory.sent.get(ROLLBACKS, 0), len(found)):
            row = found[number]
            text = f"{self.about.name}: {row['rollback']}"
            self._post(f"rollback-{number}", int(row.get("nimg") or 0), text, {"event": "rollback"})
            self.memory.sent[ROLLBACKS] = number + 1

    def _rollbacks(self) -> list[dict[str, Any]]:
        return [row for row in rows_so_far(self.memory.run, FAULTS) if row.get("rollback") is not None]

    def _newest(self) -> dict[str, int]:
        """The last clock value of each metric that a checkpoint covers."""
        newest = newest_nimg(self.memory.run)
        rows = [] if newest is None else dated_metric_rows(self.memory.run, METRICS)
        return {f"Metrics/{row['metric']}": nimg for row in rows if (nimg := nimg_of_row(row)) <= (newest or 0)}

    def _post(self, name: str, nimg: int, text: str, event: Mapping[str, Any]) -> None:
        """Posts an event once; `name` tells it from the others of the run."""
        if name in self._posted:
            return
        text = one_line(text, 500)
        where = {
            "id": f"{self.memory.id}-{name}",
            "run": self.about.name,
            "group": self.about.group,
            "kimg": nimg / 1000,
        }
        body = json.dumps({**event, **where, "text": text, "content": text}).encode()
        headers = {"content-type": "application/json", "user-agent": "stylegan_ray"}
        if token := os.environ.get(TOKEN):
            headers["authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=SEC_TO_ANSWER):
            pass
        self._posted.add(name)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None
