"""The page of a run as one HTML file: it refers to nothing outside, and its policy allows nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from stylegan_ray.config import ConfigError, RunConfig, load_config
from stylegan_ray.credentials import clean
from stylegan_ray.report.console import format_time
from stylegan_ray.report.page.charts import Chart, charts_of, share_chart, timeline
from stylegan_ray.report.page.frames import Frame, chosen, read_frames
from stylegan_ray.report.page.read import RunData, number

MOST_EVENTS = 200
MOST_CHARACTERS = 2000
"""Of a cell."""


def page_of(data: RunData) -> str:
    """The page."""
    template = Template((resources.files("stylegan_ray.report.page") / "page.html").read_text())
    return template.substitute(
        title=escape(data.name),
        state=state_badge(data),
        subtitle=escape(subtitle(data)),
        bar=f"{min(100 * data.kimg / max(data.cfg.train.total_kimg, 1e-9), 100):.2f}",
        tiles="".join(
            f"<div class=tile><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in tiles(data)
        ),
        strip=strip_of(data),
        charts="".join(map(figure_of, charts_of(data))),
        wide="".join(figure_of(chart) for chart in (timeline(data), share_chart(data)) if chart),
        events=events_of(data),
        data=definition_list(data_entries(data)) + attribution_of(data),
        provenance=definition_list(provenance_entries(data)),
        config=config_of(data.cfg),
    )


def state_badge(data: RunData) -> str:
    """How the run ended, as a colored word."""
    word = (data.ended or "running").partition(":")[0]
    kind = word if word in ("done", "stopped", "running", "failed", "diverged") else "failed"
    return f"<span class='badge {kind}'>{escape(word[:40])}</span>"


def subtitle(data: RunData) -> str:
    """Where the run is, in a sentence."""
    text = f"{data.kimg:g} of {data.cfg.train.total_kimg:g} thousand images"
    reason = (data.ended or "").partition(": ")[2]
    return f"{text}. {reason}" if reason else text


def tiles(data: RunData) -> list[tuple[str, str]]:
    """Names and values of the figures at the top of the page."""
    found = []
    for name in data.metric_names[:3]:
        kimg, value = data.best(name)
        found.append((f"best {name}, at {kimg:g} kimg", f"{value:.4g}"))
    last = data.ticks[-1] if data.ticks else {}
    if seconds := number(last, "Timing/total_sec"):
        found.append(("time of training", format_time(seconds)))
    if speed := number(last, "Timing/sec_per_kimg"):
        found.append(("seconds per kimg", f"{speed:.3g}"))
    height, width = resolution_of(data.cfg)
    found.append(("pixels", f"{width}×{height}"))
    if count := number(data.data, "num_images"):
        found.append(("training images", f"{count:,.0f}"))
    num_faults = sum(row.get("fault") is not None for row in data.faults)
    found.append(("fault survived" if num_faults == 1 else "faults survived", str(num_faults)))
    return found


def resolution_of(cfg: RunConfig) -> tuple[int, int]:
    """Height and width of the images."""
    size = cfg.data.resolution or 0
    return size if isinstance(size, tuple) else (size, size)


def strip_of(data: RunData) -> str:
    """The images over time with their slider, and the reals beside them."""
    names = list(data.images)
    nimgs = [data.images[name] for name in names]
    places, tile = chosen(nimgs), resolution_of(data.cfg)
    if not all(tile):
        return ""
    frames = read_frames(data.folder, [names[i] for i in places], [nimgs[i] for i in places], tile)
    if not frames:
        return ""
    reals = read_frames(data.folder, [data.reals], [0], tile) if data.reals else []
    images = "".join(image_of(frame, index, len(frames)) for index, frame in enumerate(frames))
    real = "<figure><img src='{}' alt='real images'><figcaption>Real images</figcaption></figure>"
    beside = real.format(reals[0].address) if reals else ""
    return (
        "<section class=card id=strip><h2>Images over time</h2><div class=pair>"
        f"<figure><div id=frames>{images}</div>"
        f"<figcaption>Generated after <output id=when>{frames[-1].nimg / 1000:g} kimg</output></figcaption></figure>"
        f"{beside}</div>"
        "<div class=slider><button id=play type=button aria-label='play'>▶</button>"
        f"<input id=time type=range min=0 max={len(frames) - 1} value={len(frames) - 1} aria-label='time'>"
        "</div></section>"
    )


def image_of(frame: Frame, index: int, num: int) -> str:
    """An <img> of a frame; the last one is shown."""
    hidden = "" if index == num - 1 else " hidden"
    text = f"{frame.nimg / 1000:g} kimg"
    return f"<img src='{frame.address}' data-when='{text}' alt='generated images after {text}'{hidden}>"


def figure_of(chart: Chart) -> str:
    """A chart with its title and legend."""
    names = chart.legend if len(chart.legend) > 1 else ()
    legend = "".join(f"<span><i style='background:{color}'></i>{escape(name)}</span>" for name, color in names)
    hover = f" data-hover='{escape(json.dumps(chart.hover), quote=True)}'" if chart.hover else ""
    head = f"<h3>{escape(chart.title)}</h3><div class=legend>{legend}</div>"
    return (
        f"<figure class='card chart'{hover}><figcaption>{head}</figcaption><div class=plot>{chart.svg}</div></figure>"
    )


def events_of(data: RunData) -> str:
    """Commands, starts, faults, rollbacks and the end, with their time."""
    rows = [(row["time"], *event) for row in data.faults if (event := event_of(row))]
    if not rows:
        return "<p>None are recorded.</p>"
    cells = "".join(
        f"<tr class={kind}><td>{stamp(when)}</td><td>{kind}</td><td>{escape(text[:MOST_CHARACTERS])}</td></tr>"
        for when, kind, text in rows[-MOST_EVENTS:]
    )
    return f"<div class=scroll><table class=events>{cells}</table></div>"


def event_of(row: dict[str, Any]) -> tuple[str, str] | None:
    """Kind and text of a row of faults.jsonl."""
    if row.get("command") is not None:
        return "command", str(row["command"])
    if (nimg := number(row, "start")) is not None:
        workers = number(row, "workers") or 1
        return "start", f"{workers:.0f} worker{'s' if workers > 1 else ''} at {nimg / 1000:g} kimg"
    if row.get("end") is not None:
        return "end", f"{row['end']}: {row.get('reason', '')}"
    for kind in ("fault", "rollback"):
        if row.get(kind) is not None:
            return kind, str(row[kind])
    return None


def stamp(seconds: float) -> str:
    """A time in UTC."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return ""


def data_entries(data: RunData) -> Iterable[tuple[str, Any]]:
    """What run.json says of the data."""
    entry = data.data
    size = entry.get("resolution") or []
    yield "path", entry.get("path")
    yield "images", entry.get("num_images")
    yield "size", "×".join(map(str, reversed(size))) if isinstance(size, list) else size
    yield "channels", entry.get("num_channels")
    yield "classes", entry.get("label_size") or None
    names = entry.get("class_names")
    yield "names of classes", ", ".join(map(str, names[:50])) if isinstance(names, list) else None
    yield "fingerprint", entry.get("fingerprint")


def attribution_of(data: RunData) -> str:
    """Whose images these are."""
    text = data.data.get("attribution")
    return f"<p class=note>{escape(str(text)[:MOST_CHARACTERS])}</p>" if text else ""


def provenance_entries(data: RunData) -> Iterable[tuple[str, Any]]:
    """Command, machine and versions."""
    entry = data.run_file
    yield "command", entry.get("command")
    yield "resumed from", entry.get("resume_from")
    yield "folder", data.folder.path()
    yield "host", entry.get("host")
    yield "platform", entry.get("platform")
    workers = entry.get("workers")
    yield (
        "workers",
        ", ".join(f"{key} {value}" for key, value in workers.items()) if isinstance(workers, dict) else None,
    )
    versions = entry.get("versions")
    packages = versions.items() if isinstance(versions, dict) else []
    yield "versions", ", ".join(f"{name} {version}" for name, version in [("python", entry.get("python")), *packages])


def definition_list(entries: Iterable[tuple[str, Any]]) -> str:
    """Names and values; empty values are left out."""
    shown = [(name, str(clean(value))[:MOST_CHARACTERS]) for name, value in entries if value not in (None, "", [])]
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in shown) + "</dl>"


def config_of(cfg: RunConfig) -> str:
    """The keys that differ from the preset, and all of them behind a click."""
    values = cfg.flat()
    try:
        preset = load_config(cfg.run.preset).flat()
    except ConfigError:  # a file that is not here
        preset = {}
    own = {key: value for key, value in values.items() if key in preset and preset[key] != value}
    own.pop("run.name", None)
    head = f"<p>Preset <code>{escape(cfg.run.preset)}</code>{', with' if own else ', unchanged.'}</p>" if preset else ""
    everything = f"<summary>All {len(values)} keys</summary><div class=scroll>{_keys(values)}</div>"
    return f"{head}{_keys(own)}<details>{everything}</details>"


def _keys(values: dict[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(_shown(value))}</td></tr>" for key, value in values.items())
    return f"<table class=keys>{rows}</table>" if values else ""


def _shown(value: Any) -> str:
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    text = ", ".join(
        "null" if item is None else str(item).lower() if isinstance(item, bool) else str(item) for item in items
    )
    return text[:MOST_CHARACTERS]
