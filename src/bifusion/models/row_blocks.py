"""Functions of rows, such as a linear layer of voxels, computed block by block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK_ROWS = 2048
"""Most rows of a block: what some layers of a few hundred channels make of them lies in a cache."""


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
