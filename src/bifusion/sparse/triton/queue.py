"""Putting a kernel on the queue of its arguments' device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def run(
    kernel: Any, grid: tuple[int, ...], first: Tensor, *others: Tensor | int | None, **constants: Any
) -> None:
    """Queues `kernel` on the device of its arguments, which need not be the current one."""
    with torch.cuda.device_of(first):
        kernel[grid](first, *others, **constants)
