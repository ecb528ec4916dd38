"""Rows of ticks, run folders, and what TensorBoard shows of them."""

from __future__ import annotations

import struct

import fsspec
from pyarrow import fs
from tensorboardX.proto.event_pb2 import Event

from stylegan_ray.report.console import TIMED_PARTS
from stylegan_ray.storage import Storage


def row(tick, **change):
    """A row of stats.jsonl."""
    return {
        "Progress/tick": tick,
        "Progress/kimg": tick * 4.0 + 0.128,
        "Progress/lod": 0.0,
        "Progress/minibatch": 32,
        "Progress/augment_p": 0.0,
        "Loss/G/loss": 0.8123,
        "Loss/D/loss": 1.2345,
        "nonfinite": 0,
        "Timing/total_sec": 192.4,
        "Timing/sec_per_tick": 13.12,
        "Timing/sec_per_kimg": 3.28,
        "Timing/maintenance_sec": 0.4,
        **{f"Timing/share/{part}": 0.01 * i for i, part in enumerate(TIMED_PARTS, 1)},
        "Resources/peak_gpu_mem_gb": 0.0,
        "Resources/cpu_mem_gb": 0.7,
        **change,
    }


def nimg_after(num_ticks):
    """cur_nimg of a state that has done so many ticks."""
    return (num_ticks - 1) * 4000 + 128 if num_ticks else 0


def object_store(name):
    """A file system in memory that cannot append."""
    return Storage(fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory"))), f"/{name}")


def events_in(content):
    """Every event of a TensorBoard file."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def events(run):
    """Every event of every TensorBoard file, in the order of the file names."""
    for name in run.names("tensorboard"):
        yield from events_in(run.read(f"tensorboard/{name}"))


def scalars(run, tag):
    """Steps of a scalar as TensorBoard shows them: a session's start hides what older files hold from there on."""
    steps = []
    for event in events(run):
        if event.HasField("session_log"):
            steps = [step for step in steps if step < event.step]
        steps += [event.step for value in event.summary.value if value.tag == tag]
    return steps
