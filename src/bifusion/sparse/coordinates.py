"""Voxel coordinates (scene, x, y, z): their order, their coarser levels, and whether they are sound.

Written for a GPU as well: nothing here waits for the device but `Survey`, which brings all that the
host must know of a batch's coordinates in one transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bifusion.errors import InputError

MAX_COORDINATE = 2**20
MAX_SCENES = 2**18
BITS = 22  # a coordinate of ±2^20 plus the reach of any sensible kernel, biased to be positive
BIAS = 1 << (BITS - 1)
NOWHERE = torch.iinfo(torch.int64).max
"""The column of no voxel; it sorts behind all others."""
DUPLICATE_VOXELS = (
    "coords: {} voxel coordinates, some of them equal; expected each voxel once: average the features "
    "of the points of a voxel first"
)


def column(scene: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """int64 number of a column of voxels, in lexicographic order; all int64 and in range."""
    return (scene << 2 * BITS) + ((x + BIAS) << BITS) + (y + BIAS)


def lexicographic_order(columns: Tensor, z: Tensor) -> Tensor:
    """(M,) int64 that sorts voxels by column, then z; a coordinate's 84 bits do not fit one number."""
    by_z = z.argsort(stable=True)
    return by_z[columns[by_z].argsort(stable=True)]


def set_first(flags: Tensor) -> Tensor:
    """(M,) int64: first the places of `flags` (M,) that are set, then the others, each in their order.

    What `nonzero` finds, without the host's waiting for how many there are.
    """
    return flags.logical_not().to(torch.uint8).argsort(stable=True)


@dataclass(frozen=True, eq=False)
class Level:
    """Voxels of a level whose number only the device knows: the first `count` rows of M."""

    coords: Tensor
    """(M, 4) int32, each voxel once, in lexicographic order; what follows is undefined."""
    count: Tensor
    """() int64."""

    def coarser(self, step: int, sides: Tensor | None = None) -> Level:
        """The voxels, `step` times larger, that hold these: floor(coord / step).

        sides: (3,) int64 or None; of the coarse voxels only those below are kept.
        """
        coarse = self.coords.long()
        coarse[:, 1:] = coarse[:, 1:].div(step, rounding_mode="floor")
        live = torch.arange(len(coarse), device=coarse.device) < self.count
        if sides is not None:
            live &= (coarse[:, 1:] < sides).all(1)
        columns = column(*coarse[:, :3].unbind(1)).masked_fill(~live, NOWHERE)
        order = lexicographic_order(columns, coarse[:, 3])
        coarse, columns = coarse[order], columns[order]
        new = columns != NOWHERE
        new[1:] &= (columns[1:] != columns[:-1]) | (coarse[1:, 3] != coarse[:-1, 3])
        return Level(coarse[set_first(new)].to(self.coords.dtype), new.sum())


def as_level(coords: Tensor) -> Level:
    """All of (M, 4)."""
    return Level(coords.int(), torch.full((), len(coords), device=coords.device))


def finite_grid(coords: Tensor, min_side: int) -> Tensor:
    """(3,) int64 sides of the grid from 0 to the largest coordinate, at least `min_side`."""
    if not len(coords):
        return coords.new_full((3,), min_side, dtype=torch.int64)
    return (coords[:, 1:].amax(0).long() + 1).clamp(min=min_side)


@dataclass(frozen=True)
class Survey:
    """What the host knows of a batch's coordinates, fetched at once."""

    scenes: tuple[int, int]
    """Smallest and largest."""
    xyz: tuple[int, int]
    counts: tuple[int, ...]
    """Voxels of each level that was asked for."""
    others: tuple[int, ...]
    """Whatever else was asked for."""

    @classmethod
    def of(cls, coords: Tensor, levels: Sequence[Level], others: Sequence[Tensor] = ()) -> Survey:
        """coords: (M, 4), M > 0; others: () integers each. The only wait for the device."""
        scene, xyz = coords[:, 0], coords[:, 1:]
        figures = [
            scene.amin(),
            scene.amax(),
            xyz.amin(),
            xyz.amax(),
            *(level.count for level in levels),
            *others,
        ]
        first, last, low, high, *more = torch.stack([figure.long() for figure in figures]).tolist()
        counts, asked = more[: len(levels)], more[len(levels) :]
        return cls((first, last), (low, high), tuple(counts), tuple(asked))

    def check(self, min_grid: int) -> None:
        """InputError unless scenes, coordinates and, for a finite grid, their signs are in range."""
        (first, last), (low, high) = self.scenes, self.xyz
        if first < 0 or last >= MAX_SCENES or max(-low, high) > MAX_COORDINATE:
            raise InputError(
                f"coords: scenes {first} … {last}, coordinates {low} … {high}; "
                f"expected scenes 0 … {MAX_SCENES - 1} and coordinates within ±{MAX_COORDINATE}: "
                "move the scene nearer to the origin or use larger voxels"
            )
        if min_grid and low < 0:
            raise InputError(
                f"coords: smallest coordinate {low}; a network with spconv_min_grid expects coordinates "
                "that start at 0: subtract the minimum, or set spconv_min_grid to 0"
            )


def check_layout(coords: Tensor) -> None:
    """InputError unless `coords` is (M, 4) integers."""
    if coords.ndim != 2 or coords.shape[1] != 4 or coords.is_floating_point() or coords.is_complex():
        raise InputError(
            f"coords: found shape {tuple(coords.shape)} of {coords.dtype}; expected (M, 4) integers "
            "(scene, x, y, z)"
        )
