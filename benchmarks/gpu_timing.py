"""Timing on a CUDA device, and what it is held against: the speed of a copy in its memory."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch
import triton

from benchmarks.timing import Timing, timing_of

FLUSHED_BYTES = 2**28
"""Written before every repetition: more than any chip's cache, so that inputs come from memory."""
COPIED_BYTES = 2**32
HEAD_START_CYCLES = 40_000_000
"""How long the device idles, some 20 ms, while the host queues the repetitions: no launch is timed."""


def measure(function: Callable[[], object], repeats: int = 20, warmup: int = 3) -> Timing:
    """Device time between two events around each of `repeats` calls, caches flushed before each."""
    for _ in range(warmup):
        function()
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device="cuda")
    pairs = [(_event(), _event()) for _ in range(repeats)]
    torch.cuda._sleep(HEAD_START_CYCLES)
    for start, end in pairs:
        flushed.zero_()
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return timing_of([start.elapsed_time(end) / 1000 for start, end in pairs])


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def wall(function: Callable[[], object], repeats: int, warmup: int = 2) -> Timing:
    """Wall time of whole calls, the device waited for before and after: what a user waits."""
    times = []
    for repeat in range(warmup + repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        torch.cuda.synchronize()
        if repeat >= warmup:
            times.append(time.perf_counter() - started)
    return timing_of(times)


def copy_bytes_per_second() -> float:
    """Bytes read and written by a large copy within the device, a second: the memory limit."""
    source = torch.empty(COPIED_BYTES // 2, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return COPIED_BYTES / measure(lambda: target.copy_(source), repeats=10).seconds


def chip() -> dict[str, Any]:
    """What a figure has to be read with."""
    return {
        "chip": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
