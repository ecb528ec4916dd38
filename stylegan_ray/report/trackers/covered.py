"""What a run's folder holds that no resume takes back: all up to its newest complete checkpoint."""

from __future__ import annotations

import calendar
import math
import time
from collections.abc import Mapping
from typing import Any

from PIL import Image

from stylegan_ray.data.decode import open_image
from stylegan_ray.jsonl import dated_metric_rows, is_number, nimg_of_row, tick_rows
from stylegan_ray.report.trackers.protocol import FAKES, TICKS, Point
from stylegan_ray.run_folder import METRICS, dated_images_of, newest_nimg
from stylegan_ray.run_folder import TICKS as TICK_ROWS
from stylegan_ray.storage import Storage

MOST_PIXELS = 2048
"""Of the longer side of an image."""


def mark_of(run: Storage) -> tuple[int | None, int | None]:
    """Differs when there may be new points: the newest complete checkpoint, and the size of METRICS."""
    newest = newest_nimg(run)
    return newest, run.size(METRICS) if newest is not None and run.exists(METRICS) else None


def new_points(run: Storage, sent: Mapping[str, int], began: float) -> list[Point]:
    """The points up to the newest complete checkpoint that lie behind `sent`, the last clock value of each series.

    `began` dates rows without a time stamp, in seconds since 1970.
    """
    newest, points = newest_nimg(run), {}
    if newest is None:
        return []

    def point_at(nimg: int, series: str, timestamp: float) -> Point | None:
        if not sent.get(series, -1) < nimg <= newest:
            return None
        point = points.setdefault(nimg, Point(nimg, timestamp))
        point.series.add(series)
        return point

    for row in tick_rows(run, TICK_ROWS):
        timestamp = row.get("Timing/timestamp") or began + row.get("Timing/total_sec", 0.0)
        if point := point_at(nimg_of_row(row), TICKS, timestamp):
            point.scalars |= {key: value for key, value in row.items() if is_number(value)}
    for row in dated_metric_rows(run, METRICS):
        key = f"Metrics/{row['metric']}"
        value = row.get("value")
        if is_number(value) and (point := point_at(nimg_of_row(row), key, _seconds(row, began))):
            point.scalars[key] = value
    for name, nimg in dated_images_of(run).items():
        if point := point_at(nimg, FAKES, began):
            point.image = name
    return [points[nimg] for nimg in sorted(points)]


def reduced_image(run: Storage, name: str) -> Image.Image:
    """A grid of images as RGB, of at most MOST_PIXELS on a side: averages of whole pixels, so that tiles stay sharp."""
    image = open_image(run.read(name)).convert("RGB")
    return image.reduce(math.ceil(max(image.size) / MOST_PIXELS))


def _seconds(row: Mapping[str, Any], began: float) -> float:
    try:
        return float(calendar.timegm(time.strptime(row["time"], "%Y-%m-%dT%H:%M:%SZ")))
    except (KeyError, ValueError, TypeError):
        return began + (row.get("total_sec") or 0.0)
