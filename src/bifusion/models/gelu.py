"""GELU where the number of rows changes from step to step.

PyTorch gives a contiguous float32 tensor on a CPU to oneDNN, which compiles a kernel for its very shape
and keeps the last 1,024 of them. Voxels, queries and superpoints come in another number each step: every
kernel would be compiled to be used once, and their small blocks, scattered over the heap, keep what lies
between them from being used again, so that a training's memory grows.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class RowsGELU(nn.Module):
    """x · Φ(x) of rows (…, rows, channels), as `nn.GELU` but for the last bits on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, rows, channels), of the same memory format; differentiable as often as `F.gelu`."""
        if x.device.type != "cpu":
            return F.gelu(x)
        return F.gelu(x.mT).mT  # not contiguous: PyTorch's own loop, which is compiled once
