"""A batch as named tensors and plain JSON, and back, with every reference in it checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bifusion.config.plain import from_plain
from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet
from bifusion.losses.context import annotation
from bifusion.step.checks import VIEW_TENSORS
from bifusion.types import Batch, BatchView, Targets

SCENE_TENSORS = (
    "voxel_coords", "voxel_feats", "voxel_position_m", "point_to_voxel", "point_to_superpoint",
    "scene_bounds_m",
)  # fmt: skip
TARGET_TENSORS = ("semantic", "masks", "labels")
_FLOAT = torch.float32
_KINDS: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {
    "voxel_coords": (torch.int32, (None, 4)),
    "voxel_feats": (_FLOAT, (None, None)),
    "voxel_position_m": (_FLOAT, (None, 3)),
    "voxel_augmented_m": (_FLOAT, (None, 3)),
    "point_to_voxel": (torch.int64, (None,)),
    "point_to_superpoint": (torch.int64, (None,)),
    "scene_bounds_m": (_FLOAT, (None, 2, 3)),
    "semantic": (torch.int64, (None,)),
    "masks": (torch.bool, (None, None)),
    "labels": (torch.int64, (None,)),
    "image": (_FLOAT, (3, None, None)),
    "image_depth_m": (_FLOAT, (1, None, None)),
    "depth_m": (_FLOAT, (None, None)),
    "K": (_FLOAT, (3, 3)),
    "depth_K": (_FLOAT, (3, 3)),
    "world2cam": (_FLOAT, (4, 4)),
    "depth_world2cam": (_FLOAT, (4, 4)),
}
"""Name -> type and shape, None where any size will do."""


def batch_to_tensors(batch: Batch, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors under names that begin with `prefix`, and the rest in JSON's types.

    Point labels for evaluation (`truths`) are left out: no training step reads them. ValueError for a
    batch without targets, which no training step takes.
    """
    tensors = {f"{prefix}.{name}": getattr(batch, name) for name in SCENE_TENSORS}
    if batch.voxel_augmented_m is not None:
        tensors[f"{prefix}.voxel_augmented_m"] = batch.voxel_augmented_m
    for b, targets in enumerate(annotation(batch)):
        tensors |= {f"{prefix}.target{b}.{name}": getattr(targets, name) for name in TARGET_TENSORS}
    for v, view in enumerate(batch.views):
        tensors |= {f"{prefix}.view{v}.{name}": getattr(view, name) for name in VIEW_TENSORS}
    plain = {
        "names": batch.names,
        "points_per_scene": batch.points_per_scene,
        "superpoints_per_scene": batch.superpoints_per_scene,
        "seeds": batch.seeds,
        "views": [[view.scene, view.name] for view in batch.views],
    }
    return tensors, plain


def batch_from_tensors(
    tensors: Mapping[str, Tensor], plain: Any, prefix: str, label_set: LabelSet, where: str
) -> Batch:
    """Inverse of `batch_to_tensors`.

    Raises InputError, naming `where`, for a tensor that is missing or of another type or shape, and
    for an index that points nowhere.
    """
    reader = _Reader(tensors, prefix, where)
    fields = from_plain(dict[str, Any], plain, where)
    names = reader.listed(fields, "names", str)
    views = [from_plain(tuple[int, str], view, where) for view in reader.listed(fields, "views", list)]
    reader.require(
        all(0 <= scene < len(names) for scene, _ in views), "a view belongs to no scene of the batch"
    )
    augmented = "voxel_augmented_m" if f"{prefix}.voxel_augmented_m" in tensors else None
    batch = Batch(
        names=names,
        points_per_scene=reader.listed(fields, "points_per_scene", int),
        superpoints_per_scene=reader.listed(fields, "superpoints_per_scene", int),
        seeds=reader.listed(fields, "seeds", int),
        voxel_augmented_m=None if augmented is None else reader.tensor(augmented),
        targets=[_targets(reader, b) for b in range(len(names))],
        views=[
            BatchView(scene=scene, name=name, **reader.tensors(VIEW_TENSORS, f"view{v}."))
            for v, (scene, name) in enumerate(views)
        ],
        **reader.tensors(SCENE_TENSORS),
    )
    _check(batch, reader, label_set)
    return batch


def _targets(reader: _Reader, b: int) -> Targets:
    return Targets(**reader.tensors(TARGET_TENSORS, f"target{b}."))


def _check(batch: Batch, reader: _Reader, label_set: LabelSet) -> None:
    scenes, voxels = len(batch.names), len(batch.voxel_coords)
    points, superpoints = sum(batch.points_per_scene), batch.num_superpoints
    scene = batch.voxel_coords[:, 0]
    counts = (batch.points_per_scene, batch.superpoints_per_scene, batch.seeds)
    reader.require(scenes > 0 and all(len(c) == scenes for c in counts), "not one entry a scene")
    reader.require(min(*counts[0], *counts[1], 0) >= 0, "a scene has a negative number of points")
    of_voxels = (batch.voxel_feats, batch.voxel_position_m, batch.voxel_augmented_m)
    reader.require(
        all(t is None or len(t) == voxels for t in of_voxels) and len(batch.scene_bounds_m) == scenes,
        "tensors of voxels, or of scenes, differ in length",
    )
    reader.require(
        _within(scene, scenes) and bool((scene[1:] >= scene[:-1]).all()), "scenes are not in order"
    )
    reader.require(
        len(batch.point_to_voxel) == points == len(batch.point_to_superpoint)
        and _within(batch.point_to_voxel, voxels)
        and _within(batch.point_to_superpoint, superpoints),
        "a point lies in a voxel or superpoint that is not there",
    )
    for targets, size in zip(annotation(batch), batch.superpoints_per_scene, strict=True):
        reader.require(
            len(targets.semantic) == size
            and targets.masks.shape == (len(targets.labels), size)
            and _within(targets.semantic, label_set.num_classes + 1)
            and _within(targets.labels, label_set.num_things),
            "the annotation does not fit the scene or the label set",
        )


def _within(index: Tensor, size: int) -> bool:
    """Every entry is in 0 … size - 1."""
    return index.numel() == 0 or (int(index.min()) >= 0 and int(index.max()) < size)


class _Reader:
    """Takes what belongs to one batch, and nothing that is not as it must be."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, where: str):
        self._tensors, self._prefix, self._where = tensors, prefix, where

    def tensor(self, name: str, part: str = "") -> Tensor:
        full = f"{self._prefix}.{part}{name}"
        dtype, shape = _KINDS[name]
        found = self._tensors.get(full)
        if found is None:
            raise InputError(f"{self._where}: has no tensor {full}; copy the file again")
        fits = found.ndim == len(shape) and all(
            wanted is None or wanted == size for wanted, size in zip(shape, found.shape, strict=False)
        )
        self.require(
            fits and found.dtype == dtype,
            f"{full} is {found.dtype} {tuple(found.shape)}, expected {dtype} {shape}",
        )
        return found

    def tensors(self, names: tuple[str, ...], part: str = "") -> dict[str, Any]:
        return {name: self.tensor(name, part) for name in names}

    def listed(self, fields: dict[str, Any], name: str, kind: type) -> list[Any]:
        return from_plain(list[kind], fields.get(name), f"{self._where}: {self._prefix}.{name}")

    def require(self, fits: bool, problem: str) -> None:
        if not fits:
            raise InputError(f"{self._where}: {self._prefix}: {problem}; write or copy the file again")
