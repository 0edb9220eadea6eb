"""Where a model runs."""

from __future__ import annotations

import os

import torch

from bifusion.errors import InputError

LOCAL_NUMBERS = ("LOCAL_RANK", "SLURM_LOCALID")
"""What torchrun and srun call a process's number on its machine."""


def usable_device(device: torch.device | str | None) -> torch.device:
    """`device`; None: a GPU if there is one, of several processes on a machine each its own. InputError
    for one that is unknown or not here."""
    if device is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        own = next((os.environ[name] for name in LOCAL_NUMBERS if name in os.environ), None)
        return torch.device("cuda" if own is None else f"cuda:{int(own) % torch.cuda.device_count()}")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)  # a name that torch knows may be of a device that is not here
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch without CUDA
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"device: {device!r} cannot be used ({reason}); expected cpu, or cuda where there is a GPU"
        ) from error
    return found
