"""Where a model runs."""

from __future__ import annotations

import torch

from bifusion.errors import InputError


def usable_device(device: torch.device | str | None) -> torch.device:
    """`device`; None: a GPU if there is one. InputError for one that is unknown or not here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)  # a name that torch knows may be of a device that is not here
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch without CUDA
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"device: {device!r} cannot be used ({reason}); expected cpu, or cuda where there is a GPU"
        ) from error
    return found
