"""Where the time of a piece of work goes: seconds by class of kernel."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

CLASSES: dict[str, str] = {
    "optimizer": r"adam|foreach|lerp",
    "convolution": r"conv|cudnn|wgrad|dgrad|fprop|implicit|xmma|cutlass.*(fprop|grad)",
    "matrix product": r"gemm|gemv|aten::b?mm|aten::addb?mm|aten::baddbmm|cublas|cutlass|nvjet",
    "compiled": r"triton",
    "random": r"random|normal|distribution|philox",
    "copy": r"copy|memcpy|memset|fill|zero|cat|clone|empty|contiguous|transpose|nchw|nhwc",
    "reduction": r"reduce|aten::(sum|mean|var|std|all|amax|norm)",
    "pointwise": r"elementwise|aten::\w+",
}
"""Class by a pattern in the name of an operation (CPU) or a kernel (GPU); the first that is found counts."""


def class_of(name: str) -> str:
    """The class of an operation or kernel."""
    return next((kind for kind, pattern in CLASSES.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def seconds_by_class(work: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Seconds that the device itself spends in each class while the work is done."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiled:
        work()
    seconds = dict.fromkeys([*CLASSES, "other"], 0.0)
    for event in profiled.key_averages():
        if on_gpu and event.device_type == DeviceType.CUDA:
            seconds[class_of(event.key)] += event.self_device_time_total / 1e6
        elif not on_gpu:
            seconds[class_of(event.key)] += event.self_cpu_time_total / 1e6
    return {kind: round(sec, 6) for kind, sec in seconds.items()}
