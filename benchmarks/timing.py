"""Timing on a machine that may be shared: medians, spread, and the speed of a dense product."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

DENSE_SIDE = 4096
CLOCK_VARIABLE = "BENCH_CLOCK"
"""Set to "cpu" with one thread where others use the machine too: processor time instead of wall time."""

clock = time.process_time if os.environ.get(CLOCK_VARIABLE) == "cpu" else time.perf_counter


@dataclass
class Timing:
    """Repeated measurements of one thing."""

    seconds: float
    """Median."""
    spread: float
    """(largest - smallest) / median of the middle half of the runs."""
    best: float
    runs: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure(function: Callable[[], object], repeats: int = 7, min_seconds: float = 0.5) -> Timing:
    """Runs once unmeasured, then at least `repeats` times and `min_seconds` in all."""
    function()
    times: list[float] = []
    while len(times) < repeats or sum(times) < min_seconds:
        started = clock()
        function()
        times.append(clock() - started)
    return timing_of(times)


def timing_of(times: list[float]) -> Timing:
    ordered = sorted(times)
    quarter = len(ordered) // 4
    median = statistics.median(ordered)
    middle = ordered[quarter : len(ordered) - quarter]
    return Timing(median, (middle[-1] - middle[0]) / median, ordered[0], len(ordered))


def dense_gflops() -> float:
    """GFLOP/s of a large float32 matrix product, now: the limit that sparse layers are held against."""
    a = torch.rand(DENSE_SIDE, DENSE_SIDE)
    out = torch.empty_like(a)
    timing = measure(lambda: torch.mm(a, a, out=out), repeats=3)
    return 2 * DENSE_SIDE**3 / timing.seconds / 1e9


PEAK_ROUNDS = 20_000_000


def peak_gflops() -> float | None:
    """GFLOP/s of float32 multiply-adds on numbers that never leave the registers: what the chip can do,
    with the widest vectors of the engine. The best of three; None without the engine."""
    try:
        from bifusion.sparse.native import peak_multiply_adds
    except ImportError:
        return None
    return 2 * max(peak_multiply_adds(PEAK_ROUNDS) for _ in range(3)) / 1e9


def limits() -> dict[str, float | None]:
    """The chip's limit and the dense product's, now, on the threads in use."""
    return {"peak_gflops": peak_gflops(), "dense_gflops": dense_gflops()}


def machine() -> dict[str, object]:
    """What a figure has to be read with."""
    from bifusion.sparse.backends import describe_backend

    return {
        "threads": torch.get_num_threads(),
        "load_1_minute": os.getloadavg()[0],
        "torch": torch.__version__,
        "backend": describe_backend(torch.device("cpu")),
        "time": time.strftime("%Y-%m-%d %H:%M"),
    }
