"""Learned positions of a patch grid, brought to another grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Learned positions of a square grid, (1 + n·n, D), resampled to a grid (h, w): (1 + h·w, D).

    Bicubic with antialiasing, as open_clip's `resize_pos_embed`. Resampling is linear and separable,
    so it is done as two matrix products: repeatable on every device, forwards and backwards.
    """
    side = round((len(positions) - 1) ** 0.5)
    if (side, side) == grid:
        return positions
    rows, columns = (_resampling_matrix(side, length, positions) for length in grid)
    with torch.autocast(positions.device.type, enabled=False):
        patches = positions[1:].unflatten(0, (side, side))
        resampled = torch.einsum("yi,ijd,xj->yxd", rows, patches, columns)
    return torch.cat([positions[:1], resampled.flatten(0, 1)])


def _resampling_matrix(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old) matrix of a bicubic, antialiased 1-D resampling: the images of the unit vectors."""
    unit = torch.eye(old, device=like.device, dtype=like.dtype)[None, None]
    return F.interpolate(unit, size=(new, old), mode="bicubic", antialias=True, align_corners=False)[
        0, 0
    ]
