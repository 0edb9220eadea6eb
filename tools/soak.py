"""Trains a tiny recipe for many steps and watches what a process must not gather.

    python tools/soak.py [--steps 10000] [--settle 1000] [--workers 2]

At every epoch's end: resident memory of the training process and of its data workers, what the heap has
in use and what it keeps for later, open files, processes, pieces of shared memory. Resident memory may
rise by 1 MB in 1,000 steps, by a straight line through each stage but its first `settle` steps: a stage
that trains more needs more, and it takes a while until arrays of every size have come by.
Files, processes and shared memory may not rise at all. Exit status 1 otherwise, or where the training
was interrupted; what there was until then is shown.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bifusion.config.run import Config
from bifusion.training.train import train
from left_processes import children
from tiny_runs import make_tiny_data, tiny_config

SCENES = 10
"""Steps of an epoch."""
EVERY = 10
"""Epochs between validations, and between checkpoints."""
MOST_MB = 1.0
"""Rise of memory in 1,000 steps."""
MEMORY = ("trainer_mb", "workers_mb", "heap_mb", "kept_mb")
TOLD_STEPS = 500
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Look:
    """What there was after so many steps."""

    steps: int
    trainer_mb: float
    workers_mb: float
    heap_mb: float
    """In use, without what the heap keeps for later; NaN where the C library does not tell."""
    kept_mb: float
    """Free within the heap: where it rises and `heap_mb` does not, small blocks hold the heap apart."""
    files: int
    processes: int
    shared: int
    stage: str


def look(steps: int, stage: str) -> Look:
    """At this process and its children, now."""
    workers, heap = children(os.getpid()), heap_mb()
    return Look(
        steps,
        resident_mb(os.getpid()),
        sum(resident_mb(pid) for pid in workers),
        *heap,
        len(os.listdir("/proc/self/fd")),
        1 + len(workers),
        len(set(re.findall(r"/dev/shm/(\S+)", told_by_system("self/maps")))),
        stage,
    )


def resident_mb(pid: int) -> float:
    return int(told_by_system(f"{pid}/statm").split()[1]) * PAGE_MB


def told_by_system(name: str) -> str:
    """A file of /proc; without pathlib (see left_processes)."""
    with open(f"/proc/{name}") as file:
        return file.read()


class _MallInfo(ctypes.Structure):
    """glibc's mallinfo2, of all its arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def heap_mb() -> tuple[float, float]:
    """What this process has allocated in C and not given back, and what its heap keeps of the rest."""
    call = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if call is None:
        return float("nan"), float("nan")
    call.restype = _MallInfo
    info = call()
    return (info.uordblks + info.hblkhd) / 2**20, info.fordblks / 2**20


def settled(looks: list[Look], settle: int) -> list[Look]:
    """Those after the first steps of their stage."""
    began: dict[str, int] = {}
    for one in looks:
        began.setdefault(one.stage, one.steps)
    return [one for one in looks if one.steps >= began[one.stage] + settle]


def by_stage(looks: list[Look]) -> dict[str, list[Look]]:
    """Stage → its looks, in order; without stages of which there are too few for a line."""
    stages: dict[str, list[Look]] = {}
    for one in looks:
        stages.setdefault(one.stage, []).append(one)
    return {stage: of_stage for stage, of_stage in stages.items() if len(of_stage) > 1}


def rise(looks: list[Look], name: str) -> float:
    """Of a figure in 1,000 steps: the slope of a straight line, by least squares."""
    steps, values = np.array([(one.steps, getattr(one, name)) for one in looks], float).T
    return float(1000 * np.polyfit(steps, values, 1)[0])


def make_config(data: Path, steps: int, workers: int) -> Config:
    """BiFusion with images, one scene a step."""
    config = tiny_config("bifusion_small", data, epochs=max(1, steps // SCENES))
    config.trainer = dataclasses.replace(
        config.trainer, batch_size=1, workers=workers, eval_every=EVERY, save_epochs=EVERY, save_every=0
    )
    return config


def soak(root: Path, steps: int, workers: int) -> tuple[list[Look], str]:
    """Trains; a look after each epoch, and how the training ended."""
    data, looks = make_tiny_data(root / "data", train=SCENES, val=1), list[Look]()

    def on_epoch(record: dict[str, Any]) -> None:
        looks.append(look((record["epoch"] + 1) * SCENES, record["stage"]))
        if looks[-1].steps % TOLD_STEPS == 0:
            print(looks[-1], flush=True)

    status = train(make_config(data, steps, workers), root / "run", on_epoch=on_epoch)
    return looks, status.state


def problems_of(looks: list[Look]) -> list[str]:
    """What rises that may not; `looks`: those after the start."""
    found = []
    for stage, of_stage in by_stage(looks).items():
        memory = rise(of_stage, "trainer_mb") + rise(of_stage, "workers_mb")
        if not memory <= MOST_MB:
            found.append(
                f"{stage}: memory rises by {memory:.2f} MB in 1,000 steps; {MOST_MB:g} are allowed"
            )
    half = len(looks) // 2
    for name in ("files", "processes", "shared"):
        before = max(getattr(one, name) for one in looks[:half])
        after = max(getattr(one, name) for one in looks[half:])
        if after > before:
            found.append(f"{name}: at most {before} in the first half, {after} in the second")
    return found


def show(looks: list[Look], console: Console) -> None:
    table = Table(
        "steps", "trainer MB", "workers MB", "heap MB", "kept MB", "files", "processes", "shared memory"
    )
    for one in looks[:: max(1, len(looks) // 10)]:
        memory = (f"{getattr(one, name):.1f}" for name in MEMORY)
        counts = map(str, (one.files, one.processes, one.shared))
        table.add_row(f"{one.steps:,}", *memory, *counts)
    for stage, of_stage in by_stage(looks).items():
        rises = (f"{rise(of_stage, name):+.2f}" for name in MEMORY)
        table.add_row(f"{stage}, in 1,000", *rises)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument(
        "--settle", type=int, default=1_000, help="first steps of a stage, which do not count"
    )
    parser.add_argument("--workers", type=int, default=2)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    console, began = Console(), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    looks, state = soak(root, wanted.steps, wanted.workers)
    later = settled(looks, wanted.settle)
    show(later, console)
    console.print(f"{looks[-1].steps:,} steps in {time.monotonic() - began:.0f} s", highlight=False)
    problems = problems_of(later)
    if state != "completed":
        problems.append(
            f"the training ended as {state} after {looks[-1].steps:,} of {wanted.steps:,} steps"
        )
    for problem in problems:
        console.print(problem, markup=False, highlight=False)
    shutil.rmtree(root)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
