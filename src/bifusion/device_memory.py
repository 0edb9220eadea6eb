"""A device without room for what is asked of it, told as what it is."""

from __future__ import annotations

import torch

from bifusion.errors import InputError
from bifusion.types import Batch

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
