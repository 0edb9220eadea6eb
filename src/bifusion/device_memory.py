"""How much memory was taken, and a device without room for what is asked of it, told as what it is."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bifusion.errors import InputError
from bifusion.types import Batch

try:
    import resource
except ImportError:  # Windows
    resource = None

MEMORY_ERRORS = (RuntimeError, MemoryError)
"""Among which are those that `is_full` finds."""
SAYING = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
"""What CUDA, its libraries and PyTorch's allocator for CPUs (Linux, Windows) say of it."""
MOST_LETTERS = 200
"""Of their message, which goes on with advice on the allocator's settings."""
ELSEWHERE = (
    "free memory that others take, let a machine with more do it, or, of a GPU, the CPU (with "
    "CUDA_VISIBLE_DEVICES set to nothing)"
)


def is_full(error: BaseException) -> bool:
    """Whether an error says that a GPU, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in SAYING)


def told_by(error: BaseException) -> str:
    """What was asked for, in the words of who has no room; one line."""
    line = (str(error).splitlines() or ["no more memory"])[0]
    return line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]} …"


def size_of(batch: Batch) -> str:
    """What a batch takes memory by."""
    views = f", {len(batch.views)} views" if batch.views else ""
    return f"{len(batch.voxel_coords):,} voxels, {batch.num_superpoints:,} superpoints{views}"


def refuse_if_full(error: BaseException, batch: Batch) -> None:
    """InputError, with the batch's scenes and size, where `error` says that it found no room."""
    if is_full(error):
        raise InputError(
            f"{', '.join(batch.names)}: takes more memory than there is ({size_of(batch)}; "
            f"{told_by(error)}); {ELSEWHERE}"
        ) from error


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far: allocated on a CUDA device, else resident in this process; NaN where the
    system does not tell (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return most_resident_mb()


def most_resident_mb() -> float:
    """Largest resident memory of this process so far, NaN where the system does not tell (Windows).

    Linux's VmHWM where there is one: what getrusage says of a process begins with the peak of the one
    that started it.
    """
    status = Path("/proc/self/status")
    # Bytes: the name of the process, cut after 15 of them, may end within a letter.
    for line in status.read_bytes().splitlines() if status.exists() else ():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) / 2**10
    if resource is None:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
