"""Sparse tensors: features on the occupied voxels of a batch, and the maps they share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from bifusion.sparse.backends import backend_for
from bifusion.sparse.kernel_map import (
    KernelMap,
    VoxelIndex,
    check_coordinates,
    coarse_coordinates,
    strided_map,
    submanifold_map,
)


class KernelMaps:
    """Coordinates of a batch at every stride and the kernel maps on them, each built once.

    All layers on one batch share one object, so a map is paid for by the first layer that needs it.
    Level `stride` holds floor(coord / stride), in voxels of that level.

    Args:
        coords: (M, 4) int32 (scene, x, y, z) of stride 1; batch rows in any order.
        grid: side lengths (x, y, z) of the grid in which the voxels lie, or None. spconv computes a
            strided convolution on a finite grid: of an odd side n only n // 2 coarse voxels exist,
            and the last plane of fine voxels has no coarse voxel. Networks trained with spconv are
            reproduced only with the same grid; None keeps every voxel.

    Raises:
        InputError: if `coords` has another shape or type, or a coordinate is out of range.
    """

    def __init__(self, coords: Tensor, grid: tuple[int, int, int] | None = None) -> None:
        check_coordinates(coords)
        self._coords: dict[int, Tensor] = {1: coords}
        self._indices: dict[int, VoxelIndex] = {}
        self._maps: dict[tuple[str, int, int, int], KernelMap] = {}
        self._grid = grid

    def coords(self, stride: int) -> Tensor:
        """(M, 4) int32 coordinates of a level; KeyError if no strided layer has led there."""
        return self._coords[stride]

    def submanifold(self, stride: int, kernel_size: int) -> KernelMap:
        """Map of a submanifold convolution on level `stride`."""
        key = ("submanifold", stride, kernel_size, 1)
        if key not in self._maps:
            self._maps[key] = submanifold_map(self._index(stride), self._coords[stride], kernel_size)
        return self._maps[key]

    def strided(self, stride: int, kernel_size: int, step: int) -> KernelMap:
        """Map from level `stride` to level `stride * step`, whose coordinates it creates if new."""
        key = ("strided", stride, kernel_size, step)
        if key not in self._maps:
            fine, coarse = self._coords[stride], self._coarse(stride, step)
            self._maps[key] = strided_map(self._index(stride), len(fine), coarse, kernel_size, step)
        return self._maps[key]

    def _index(self, stride: int) -> VoxelIndex:
        if stride not in self._indices:
            coords = self._coords[stride]
            self._indices[stride] = backend_for(coords.device).index_voxels(coords)
        return self._indices[stride]

    def _coarse(self, stride: int, step: int) -> Tensor:
        coarse_stride = stride * step
        if coarse_stride not in self._coords:
            coarse = coarse_coordinates(self._coords[stride], step)
            if self._grid is not None:
                sides = coarse.new_tensor([side // coarse_stride for side in self._grid])
                coarse = coarse[(coarse[:, 1:] < sides).all(1)]
            self._coords[coarse_stride] = coarse
        return self._coords[coarse_stride]


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
