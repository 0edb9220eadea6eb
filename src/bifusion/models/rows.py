"""Layers of rows (voxels, queries, superpoints), of which there is another number at every call."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_ROWS = 2048
"""Most rows of a block: what some layers of a few hundred channels make of them lies in a cache."""


class RowsGELU(nn.Module):
    """x · Φ(x) of rows (…, rows, channels), as `nn.GELU` but for the last bits on a CPU.

    PyTorch gives a contiguous float32 tensor on a CPU to oneDNN, which compiles a kernel for its very
    shape and keeps the last 1,024 of them. Every kernel would be compiled to be used once, and their
    small blocks, scattered over the heap, keep what lies between them from being used again, so that a
    training's memory grows.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…, rows, channels), of the same memory format; differentiable as often as `F.gelu`."""
        if x.device.type != "cpu":
            return F.gelu(x)
        return F.gelu(x.mT).mT  # not contiguous: PyTorch's own loop, which is compiled once


def goes_by_blocks(features: Tensor) -> bool:
    """Whether blocks gain anything: in use, on a CPU. What lies between the layers, often several times
    as much as the result, takes no memory then."""
    return not torch.is_grad_enabled() and features.device.type == "cpu"


def by_blocks(function: Callable[..., Tensor], *of_rows: Tensor) -> Tensor:
    """(…, R, D): `function` of tensors of R rows each, by blocks where that gains anything.

    It computes row by row, and rows are the last dimension but one of what it returns. Blocks are of
    like size: products of a few rows are not rounded as those of many.
    """
    if not goes_by_blocks(of_rows[0]):
        return function(*of_rows)
    blocks = -(-len(of_rows[0]) // BLOCK_ROWS) or 1
    made, first = None, 0
    for block in zip(*(rows.tensor_split(blocks) for rows in of_rows), strict=True):
        part = function(*block)
        if made is None:
            made = part.new_empty(*part.shape[:-2], len(of_rows[0]), part.shape[-1])
        made[..., first : first + part.shape[-2], :] = part
        first += part.shape[-2]
    assert made is not None
    return made
