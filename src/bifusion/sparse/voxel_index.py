"""Finding voxels by their coordinates.

`CoordinateIndex` finds voxels by binary search: the same code on every device, and deterministic. A
backend may bring a quicker index of its own (backends.py) with the same tables.
A coordinate (scene, x, y, z) is looked up in two steps, its column (scene, x, y) first and then z
within the column, because four numbers of 21 bits do not fit one int64.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.sparse.coordinates import BIAS, BITS, DUPLICATE_VOXELS, NOWHERE, column


@runtime_checkable
class VoxelIndex(Protocol):
    """A set of voxel coordinates, searchable; CoordinateIndex or a backend's own."""

    def table(self, out_coords: Tensor, kernel_size: int, stride: int) -> Tensor:
        """(M_out, k³) int32: row of this set at out_coords·stride + offset, -1 where there is none."""
        ...


class CoordinateIndex:
    """A set of voxel coordinates, searchable by bisection.

    Args:
        coords: (M, 4) integers (scene, x, y, z) in range (coordinates.py), in any order.

    Raises:
        InputError: if a voxel is given twice.
    """

    def __init__(self, coords: Tensor) -> None:
        self.columns, keys = _column_keys(coords)
        self.keys, self.order = keys.sort()
        if bool((self.keys[1:] == self.keys[:-1]).any()):
            raise InputError(DUPLICATE_VOXELS.format(len(coords)))

    def table(self, out_coords: Tensor, kernel_size: int, stride: int) -> Tensor:
        """(M_out, k³) int32: row of this set at out_coords·stride + offset, -1 where there is none.

        Searches once per column of offsets: the voxels of a column are neighbours in `keys`.
        """
        first = -(kernel_size // 2) if kernel_size % 2 else 0
        base = out_coords.long() * out_coords.new_tensor([1, stride, stride, stride])
        base[:, 1:] += first
        columns = torch.cat([self.columns, self.columns.new_tensor([NOWHERE])])
        keys = torch.cat([self.keys, self.keys.new_tensor([NOWHERE])])
        rows = torch.cat([self.order, self.order.new_tensor([-1])]).int()
        table = []
        for ix in range(kernel_size):
            for iy in range(kernel_size):
                wanted = column(base[:, 0], base[:, 1] + ix, base[:, 2] + iy)
                rank = torch.searchsorted(self.columns, wanted)
                found = columns[rank] == wanted
                target = (rank << BITS) + (base[:, 3] + BIAS)
                position = torch.searchsorted(self.keys, target)
                for iz in range(kernel_size):
                    hit = (keys[position] == target + iz) & found
                    table.append(torch.where(hit, rows[position], -1))
                    position += hit
        return torch.stack(table, dim=1)


def _column_keys(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted column numbers (C,) and, for each voxel, (rank of its column, z) as one number (M,)."""
    scene, x, y, z = coords.long().unbind(1)
    columns, rank = column(scene, x, y).unique(return_inverse=True)
    return columns, (rank << BITS) + (z + BIAS)
