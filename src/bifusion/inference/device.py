"""Where a model runs, and in which precision."""

from __future__ import annotations

import os

import torch

from bifusion import cuda
from bifusion.errors import InputError, first_line
from bifusion.sparse.backends import backend_for

AUTOCAST: dict[str, torch.dtype | None] = {
    "32-true": None,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}
"""Precision, as `trainer.precision` has it → what products are computed in; None: as weights are."""
LOCAL_NUMBERS = ("LOCAL_RANK", "SLURM_LOCALID")
"""What torchrun and srun call a process's number on its machine."""


def usable_device(device: torch.device | str | None) -> torch.device:
    """`device`; None: a GPU if there is one, of several processes on a machine each its own. InputError
    for one that is unknown or not here, and for a GPU that torch cannot use."""
    cuda.set_up()
    if device is None:
        cuda.check_usable("device='cpu', or CUDA_VISIBLE_DEVICES set to nothing")
        if not torch.cuda.is_available():
            return torch.device("cpu")
        own = next((os.environ[name] for name in LOCAL_NUMBERS if name in os.environ), None)
        return torch.device("cuda" if own is None else f"cuda:{int(own) % torch.cuda.device_count()}")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)  # a name that torch knows may be of a device that is not here
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch without CUDA
        raise InputError(
            f"device: {device!r} cannot be used ({first_line(error)}); expected cpu, or cuda where "
            "there is a GPU"
        ) from error
    return found


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What products are computed in with `precision`; None: in the weights' float32. InputError for a
    precision that is unknown, or that `device` has not."""
    if precision not in AUTOCAST:
        raise InputError(f"precision: found {precision!r}; expected one of {', '.join(AUTOCAST)}")
    if precision == "16-mixed" and device.type == "cpu":
        raise InputError(
            "precision: is '16-mixed', which on a CPU is for trainings alone (it is slower there, and "
            "shows what it does to them); expected 32-true or bf16-mixed"
        )
    return AUTOCAST[precision]


def keep_freed_memory() -> None:
    """For commands, whose process is ours, before they predict: large arrays take the memory of those
    that were freed, which spares a CPU a tenth of the time.

    Whoever uses the library has a process of their own: neither `bifusion.load` nor a `Segmenter` does
    this unasked; `keep_freed_memory` of `sparse.backends.backend_for` does it for them.
    """
    backend_for(torch.device("cpu")).keep_freed_memory()
