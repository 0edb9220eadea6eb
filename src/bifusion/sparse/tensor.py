"""Sparse tensors: features on the occupied voxels of a batch, and the maps they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.sparse.backends import backend_for
from bifusion.sparse.coordinates import (
    DUPLICATE_VOXELS,
    Survey,
    as_level,
    check_layout,
    finite_grid,
)
from bifusion.sparse.kernel_map import KernelMap, strided_map, submanifold_map
from bifusion.sparse.voxel_index import VoxelIndex


def _surveyed_strides(device: torch.device) -> tuple[int, ...]:
    """Levels made unasked, with the survey of the coordinates: on a GPU those of the published U-Nets.

    It is waited for once then, not at each level. On a CPU nothing would be gained by levels that nobody
    may want, and the index finds equal voxels.
    """
    return () if device.type == "cpu" else (1, 2, 4, 8, 16)


class KernelMaps:
    """Coordinates of a batch at every stride and the kernel maps on them, each built once.

    All layers on one batch share one object, so a map is paid for by the first layer that needs it.
    Level `stride` holds floor(coord / stride), in voxels of that level. The host waits for a GPU once,
    when the first map is asked for; a level beyond stride 16, or of no power of 2, costs one more wait.

    Args:
        coords: (M, 4) int32 (scene, x, y, z) of stride 1; batch rows in any order.
        min_grid: 0 keeps every voxel at every level. n > 0: the voxels lie in a grid from 0 to the
            largest coordinate of each axis, at least n long. spconv computes a strided convolution on
            such a finite grid: of an odd side n only n // 2 coarse voxels exist, and the last plane of
            fine voxels has no coarse voxel. Networks trained with spconv are reproduced only so.

    Raises:
        InputError: if `coords` has another shape or type; when the first map is asked for, if a
            coordinate is out of range or a voxel is given twice.
    """

    def __init__(self, coords: Tensor, min_grid: int = 0) -> None:
        check_layout(coords)
        self._coords: dict[int, Tensor] = {1: coords}
        self._indices: dict[int, VoxelIndex] = {}
        self._maps: dict[tuple[str, int, int, int], KernelMap] = {}
        self._min_grid = min_grid
        self._surveyed = len(coords) == 0

    def coords(self, stride: int) -> Tensor:
        """(M, 4) int32 coordinates of a level; KeyError if no strided layer has led there."""
        return self._coords[stride]

    def submanifold(self, stride: int, kernel_size: int) -> KernelMap:
        """Map of a submanifold convolution on level `stride`."""
        key = ("submanifold", stride, kernel_size, 1)
        if key not in self._maps:
            self._maps[key] = submanifold_map(self._index(stride), self._coords[stride], kernel_size)
        return self._maps[key]

    def forget_submanifold(self, stride: int, kernel_size: int) -> None:
        """Gives the memory of such a map back, which no further layer needs; one that asks has it made
        anew."""
        self._maps.pop(("submanifold", stride, kernel_size, 1), None)

    def knows(self, stride: int) -> bool:
        """Whether there are voxels of this stride: the input's, or those that a strided map made."""
        return stride in self._coords

    def strided(self, stride: int, kernel_size: int, step: int) -> KernelMap:
        """Map from level `stride` to level `stride * step`, whose coordinates it creates if new."""
        key = ("strided", stride, kernel_size, step)
        if key not in self._maps:
            index = self._index(stride)
            fine, coarse = self._coords[stride], self._coarse(stride, step)
            self._maps[key] = strided_map(index, len(fine), coarse, kernel_size, step)
        return self._maps[key]

    def survey(self, others: Sequence[Tensor] = ()) -> tuple[int, ...]:
        """Checks the coordinates, the first time; the only place where the host waits for a GPU.

        `others`, () integers each, come to the host in the same copy, if they are asked for before the
        first map is.
        """
        if self._surveyed:
            return tuple(torch.stack(list(others)).tolist()) if others else ()
        return self._survey(others)

    def _index(self, stride: int) -> VoxelIndex:
        self.survey()
        if stride not in self._indices:
            coords = self._coords[stride]
            self._indices[stride] = backend_for(coords.device).index_voxels(coords)
        return self._indices[stride]

    def _coarse(self, stride: int, step: int) -> Tensor:
        coarse_stride = stride * step
        if coarse_stride not in self._coords:
            level = as_level(self._coords[stride]).coarser(step, self._sides(coarse_stride))
            self._coords[coarse_stride] = level.coords[: int(level.count)]
        return self._coords[coarse_stride]

    def _sides(self, stride: int) -> Tensor | None:
        """(3,) sides of the finite grid in voxels of level `stride`."""
        if not self._min_grid:
            return None
        return finite_grid(self._coords[1], self._min_grid) // stride

    def _survey(self, others: Sequence[Tensor]) -> tuple[int, ...]:
        coords, level, levels = self._coords[1], as_level(self._coords[1]), {}
        for stride in _surveyed_strides(coords.device):
            step = 1 if stride == 1 else 2  # by a step of 1 equal voxels become one
            levels[stride] = level = level.coarser(step, None if stride == 1 else self._sides(stride))
        survey = Survey.of(coords, list(levels.values()), others)
        survey.check(self._min_grid)
        for (stride, level), count in zip(levels.items(), survey.counts, strict=True):
            if stride > 1:
                self._coords[stride] = level.coords[:count]
            elif count < len(coords):
                raise InputError(DUPLICATE_VOXELS.format(len(coords)))
        self._surveyed = True
        return survey.others


@dataclass
class SparseTensor:
    """Features on the occupied voxels of a batch at one level."""

    feats: Tensor
    """(M, C) floating point."""
    coords: Tensor
    """(M, 4) int32: scene, x, y, z in voxels of this level."""
    stride: int = 1
    """Side of a voxel of this level in voxels of the input."""
    maps: KernelMaps = field(default=None)  # type: ignore[assignment]
    """Shared with every tensor that comes of this one; made when not given (stride 1 only)."""

    def __post_init__(self) -> None:
        if len(self.feats) != len(self.coords):
            raise ValueError(f"{len(self.feats)} feature rows for {len(self.coords)} voxels")
        if self.maps is None:
            if self.stride != 1:
                raise ValueError(f"a tensor of stride {self.stride} needs the maps it came from")
            self.maps = KernelMaps(self.coords)

    def replace(self, feats: Tensor) -> SparseTensor:
        """The same voxels and maps with other features (M, C')."""
        return replace(self, feats=feats)

    def at(self, stride: int, feats: Tensor) -> SparseTensor:
        """Features (M', C') on the voxels of another level of the same batch."""
        return SparseTensor(feats, self.maps.coords(stride), stride, self.maps)
