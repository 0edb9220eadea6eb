"""Mask3D's forward pass against the official code's, with weights filled by their names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bifusion.models.mask3d import Mask3D
from bifusion.official.models import convert, official_models
from bifusion.types import Batch
from reference.checks_models import (
    COLOR_MEAN_200,
    COLOR_STD_200,
    VOXEL_SIZE_M,
    relative_error,
    weight_by_name,
)

NAME = "mask3d_scannet20"


def check_mask3d(path: Path) -> dict[str, float]:
    """Relative Frobenius error of both outputs of the case at `path`, and by how much they move where a
    voxel has up to four points, of which official code keeps one; largest error of a query point."""
    case = np.load(path)
    batch, model = load_case(path), official_mask3d(path.parent, len(case["query_points"]))
    with torch.no_grad():
        prediction = model(batch)
        (rows,) = model.decoder.choose_queries(batch)
        times = 1 + torch.arange(len(batch.voxel_coords)) * 7 % 4
        crowded = model(with_points_repeated(batch, times)).layers[-1]
    last = prediction.layers[-1]
    query_points = batch.voxel_position_m.index_select(0, rows)
    assert prediction.semantic_logits is None and prediction.query_superpoints is None
    assert query_points.shape == case["query_points"].shape
    return {
        "query_points": float(np.abs(query_points.numpy() - case["query_points"]).max()),
        "class_logits": relative_error(last.class_logits[0], case["class_logits"]),
        "mask_logits": relative_error(last.mask_logits[0], case["mask_logits"]),
        "crowded_classes": relative_error(crowded.class_logits[0], last.class_logits[0].numpy()),
        "crowded_masks": relative_error(crowded.mask_logits[0], last.mask_logits[0].numpy()),
    }


def with_points_repeated(batch: Batch, times: Tensor) -> Batch:
    """The same with `times` (M,) points in each voxel, all of the superpoint that its one point has."""
    voxel = torch.arange(len(times)).repeat_interleave(times)
    return dataclasses.replace(
        batch,
        point_to_voxel=voxel,
        point_to_superpoint=batch.point_to_superpoint[voxel],
        points_per_scene=[len(voxel)],
    )


def official_mask3d(folder: Path, queries: int) -> Mask3D:
    """The published network in eval mode, weights by name in the shapes of NAME.tensors.json."""
    official = official_models()[NAME]
    model = Mask3D(official.config, official.labels)
    model.decoder.config.eval_queries = queries
    converted = convert(NAME, official_tensors(folder))
    assert converted.complete, converted.problems()
    model.load_state_dict(converted.state)
    return model.eval()


def official_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The official state dict; a tensor's value follows from its name without "model."."""
    shapes = json.loads((folder / f"{NAME}.tensors.json").read_text())["tensors"]
    return {
        name: weight_by_name(name.removeprefix("model."), tuple(shape)) for name, shape in shapes.items()
    }


def load_case(path: Path) -> Batch:
    """The case's points as a batch of one scene, one point a voxel, in the points' order."""
    case = np.load(path)
    points, colors = torch.from_numpy(case["points"]), case["colors"].astype(np.float32)
    mean, std = np.float32(COLOR_MEAN_200) * 255, np.float32(COLOR_STD_200) * 255
    cells = np.floor(case["points"] / np.float32(VOXEL_SIZE_M)).astype(np.int32)
    superpoints = torch.from_numpy(case["superpoints"].astype(np.int64))
    return Batch(
        names=[path.stem],
        voxel_coords=torch.from_numpy(np.insert(cells, 0, 0, axis=1)),
        voxel_feats=torch.from_numpy((colors - mean) / std),
        voxel_position_m=points,
        point_to_voxel=torch.arange(len(points)),
        point_to_superpoint=superpoints,
        points_per_scene=[len(points)],
        superpoints_per_scene=[int(superpoints.max()) + 1],
        scene_bounds_m=torch.stack([points.amin(0), points.amax(0)])[None],
        seeds=[0],
    )
