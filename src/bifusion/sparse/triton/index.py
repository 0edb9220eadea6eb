"""Finding voxels on a GPU: sorted once, bisected by one kernel; nothing is awaited by the host."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from bifusion.sparse.coordinates import BIAS, BITS, column, lexicographic_order
from bifusion.sparse.triton import kernels
from bifusion.sparse.triton.queue import run

_BLOCK = 128


class SortedIndex:
    """A set of voxel coordinates (M, 4), searchable; that they are distinct is for the survey to see."""

    def __init__(self, coords: Tensor) -> None:
        columns = column(*coords[:, :3].long().unbind(1))
        order = lexicographic_order(columns, coords[:, 3])
        self._columns = columns[order]
        self._heights = coords[:, 3][order].int()
        self._order = order.int()

    def table(self, out_coords: Tensor, kernel_size: int, stride: int) -> Tensor:
        """(M_out, k³) int32: row of this set at out_coords·stride + offset, -1 where there is none."""
        rows, voxels = len(out_coords), len(self._order)
        table = torch.empty(rows, kernel_size**3, dtype=torch.int32, device=out_coords.device)
        if rows == 0:
            return table
        first = -(kernel_size // 2) if kernel_size % 2 else 0
        grid = (triton.cdiv(rows, _BLOCK), kernel_size**2)
        run(
            kernels.find_neighbors, grid, self._columns, self._heights, self._order,
            out_coords.int().contiguous(), table, voxels, rows, voxels.bit_length(), stride, first,
            SIDE=kernel_size, BIAS=BIAS, BITS=BITS, BLOCK=_BLOCK,
        )  # fmt: skip
        return table
