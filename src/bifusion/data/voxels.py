"""From points to voxels, and from point labels to superpoint targets; numpy, deterministic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet, check_labels

Origin = Literal["min", "world"]
MAX_EXTENT = 2**20
"""Voxels along an axis, and from the origin, that the sparse operations tell apart."""


@dataclass
class Voxels:
    """M occupied voxels, sorted by x, then y, then z."""

    coords: np.ndarray
    """(M, 3) int32."""
    point_to_voxel: np.ndarray
    """(N,) int64."""
    order: np.ndarray
    """(N,) point indices, those of voxel 0 first; within a voxel in the points' order."""
    starts: np.ndarray
    """(M,) where each voxel begins in `order`."""
    counts: np.ndarray
    """(M,) points in each voxel."""

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(M, C) float32 means of (N, C) `values` over the points of each voxel."""
        sums = np.add.reduceat(np.take(values, self.order, axis=0), self.starts, axis=0)
        return (sums / self.counts[:, None]).astype(np.float32)


def grid_cells(
    coord: np.ndarray, voxel_size_m: float, origin: Origin, shift_m: np.ndarray | None = None
) -> np.ndarray:
    """(N, 3) int64: the voxel that each point lies in. Arguments and errors as for `voxelize`."""
    shifted = coord - coord.min(axis=0) if origin == "min" else coord
    if shift_m is not None:
        shifted = shifted + shift_m
    cells = np.floor(shifted / np.float32(voxel_size_m))
    low, high = cells.min(axis=0), cells.max(axis=0)
    extent, furthest = float((high - low).max()), float(np.abs([low, high]).max())
    if extent >= MAX_EXTENT or furthest > MAX_EXTENT:  # larger floats would wrap around as integers
        raise InputError(
            f"voxel_size_m: {voxel_size_m} m makes {extent + 1:.4g} voxels along an axis, the furthest "
            f"{furthest:.4g} from the origin; at most 2^20 fit; are the coordinates in metres? Enlarge "
            "the voxels, scale the coordinates, or move the scene to the origin"
        )
    return cells.astype(np.int64)


def voxelize(
    coord: np.ndarray, voxel_size_m: float, origin: Origin = "min", shift_m: np.ndarray | None = None
) -> Voxels:
    """Occupied voxels of (N, 3) points.

    Args:
        coord: metres; float32 arithmetic as in the official pipelines, so borders fall alike.
        voxel_size_m: edge length.
        origin: "min": floor((xyz − smallest xyz) / v), OneFormer3D for ScanNet; "world":
            floor(xyz / v), OneFormer3D for ScanNet200 and Mask3D.
        shift_m: (3,) added before flooring (after subtracting the smallest xyz).
    Raises:
        InputError: a scene too large for its voxel size, or too far from the origin (2²⁰ voxels).
    """
    grid = grid_cells(coord, voxel_size_m, origin, shift_m)
    packed = grid - grid.min(axis=0)
    key = (packed[:, 0] << 40) | (packed[:, 1] << 20) | packed[:, 2]
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    first = np.concatenate([[True], sorted_key[1:] != sorted_key[:-1]])
    starts = np.flatnonzero(first)
    point_to_voxel = np.empty(len(key), np.int64)
    point_to_voxel[order] = np.cumsum(first) - 1
    return Voxels(
        coords=grid[order[starts]].astype(np.int32),
        point_to_voxel=point_to_voxel,
        order=order,
        starts=starts,
        counts=np.diff(starts, append=len(key)),
    )


def compact_ids(ids: np.ndarray, where: str | Path) -> tuple[np.ndarray, int]:
    """`ids` renumbered 0 … S−1 in their order without gaps, int64, and S; InputError if one is < 0."""
    if ids.min() < 0:
        raise InputError(
            f"{where}: superpoint id {int(ids.min())} found; expected ids ≥ 0 for every point"
        )
    if ids.max() >= 4 * len(ids):  # raw ids far apart: counting them would waste memory
        used, compact = np.unique(ids, return_inverse=True)
        return compact.astype(np.int64), len(used)
    used = np.bincount(ids) > 0
    if used.all():
        return ids.astype(np.int64), len(used)
    return (np.cumsum(used) - 1)[ids], int(used.sum())


@dataclass
class SuperpointLabels:
    """Targets of one scene in numpy; see types.Targets."""

    semantic: np.ndarray
    """(S,) int64, C where unlabelled."""
    masks: np.ndarray
    """(G, S) bool."""
    labels: np.ndarray
    """(G,) int64 index into the thing classes."""


def clean_labels(
    segment: np.ndarray | None,
    instance: np.ndarray | None,
    label_set: LabelSet,
    where: str | Path,
    count: int,
    *,
    zero_is_none: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Point labels as the evaluators want them: (N,) int64 semantic and instance, −1 none.

    Instances of stuff and of unlabelled points are dropped (Pointcept's folders and ScanNet's files
    number walls and floors too). What is not annotated is −1 everywhere. `zero_is_none`: instances
    are numbered from 1 (see `annotation.py`).
    """
    none = np.full(count, -1, np.int64)
    if segment is None:
        return none, none
    check_labels(segment, label_set, where)
    segment = segment.astype(np.int64)
    if instance is None:
        return segment, none
    instance = instance.astype(np.int64)  # in unsigned ids, as of 16-bit pictures, −1 would be 65,535
    is_thing = np.zeros(label_set.num_classes + 1, bool)  # the last entry answers for −1
    is_thing[list(label_set.thing_classes)] = True
    first = 1 if zero_is_none else 0
    return segment, np.where(is_thing[segment] & (instance >= first), instance, -1)


def superpoint_labels(
    segment: np.ndarray,
    instance: np.ndarray,
    superpoint: np.ndarray,
    num_superpoints: int,
    label_set: LabelSet,
) -> SuperpointLabels:
    """Targets on superpoints, as OneFormer3D's `AddSuperPointAnnotations` makes them.

    A superpoint has the class that more than half of its points have, else it is unlabelled; it
    belongs to an instance that more than half of its points belong to. An instance has the most
    frequent class of its points; one that holds no superpoint cannot be predicted and is left out.

    Args:
        segment, instance: (N,) as `clean_labels` returns them.
        superpoint: (N,) ids 0 … num_superpoints − 1, each used.
    """
    num_classes = label_set.num_classes
    points = np.bincount(superpoint, minlength=num_superpoints)
    columns = np.where(segment < 0, num_classes, segment)
    share = _count_pairs(superpoint, columns, num_superpoints, num_classes + 1) / points[:, None]
    majority = share.argmax(axis=1)
    semantic = np.where(share.max(axis=1) > 0.5, majority, num_classes)

    inside = instance >= 0
    ids, row = np.unique(instance[inside], return_inverse=True)
    masks = _count_pairs(row, superpoint[inside], len(ids), num_superpoints) / points > 0.5
    classes = (
        _count_pairs(row, segment[inside], len(ids), num_classes).argmax(axis=1) if len(ids) else row
    )
    thing_index = np.full(num_classes, -1)
    thing_index[list(label_set.thing_classes)] = np.arange(label_set.num_things)
    kept = masks.any(axis=1)
    return SuperpointLabels(
        semantic.astype(np.int64), masks[kept], thing_index[classes[kept]].astype(np.int64)
    )


def _count_pairs(row: np.ndarray, column: np.ndarray, num_rows: int, num_columns: int) -> np.ndarray:
    """(num_rows, num_columns) how often each pair (row, column) occurs."""
    flat = np.bincount(row * num_columns + column, minlength=num_rows * num_columns)
    return flat.reshape(num_rows, num_columns)
