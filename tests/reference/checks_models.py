"""OneFormer3D's forward pass against the official code's, with weights filled by their names."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bifusion.models.oneformer3d import OneFormer3D
from bifusion.official.models import convert, official_models
from bifusion.types import Batch

VOXEL_SIZE_M = 0.02
COLOR_MEAN_200 = (0.47793125906962, 0.4303257521323044, 0.3749598901421883)
COLOR_STD_200 = (0.2834475483823543, 0.27566157565723015, 0.27018971370874995)


def check_oneformer3d(path: Path) -> dict[str, float]:
    """Relative Frobenius error of every output of the case at `path`, and the voxels too many."""
    case = np.load(path)
    batch = load_case(path)
    model = official_model(path.name.split(".")[0], path.parent)
    with torch.no_grad():
        prediction = model(batch)
    assert prediction.semantic_logits is not None
    semantic = prediction.semantic_logits[0]
    swapped = official_models()[path.name.split(".")[0]].swapped_classes
    if swapped:  # the case has the official order of classes
        order = torch.arange(semantic.shape[1])
        order[list(swapped)] = order[list(reversed(swapped))]
        semantic = semantic[:, order]
    found = {
        "superpoint_features": prediction.superpoint_features,
        "class_logits": prediction.layers[-1].class_logits[0],
        "semantic_logits": semantic,
        "mask_logits": prediction.layers[-1].mask_logits[0],
    }
    errors = {"voxels": float(abs(len(batch.voxel_coords) - int(case["voxels"])))}
    return errors | {name: relative_error(value, case[name]) for name, value in found.items()}


def official_model(name: str, folder: Path) -> OneFormer3D:
    """The published network in eval mode, weights by name in the shapes of NAME.tensors.json."""
    shapes = json.loads((folder / f"{name}.tensors.json").read_text())["tensors"]
    tensors = {key: weight_by_name(key, tuple(shape)) for key, shape in shapes.items()}
    official = official_models()[name]
    model = OneFormer3D(official.config, official.labels)
    converted = convert(name, tensors)
    assert converted.complete, converted.problems()
    model.load_state_dict(converted.state)
    return model.eval()


def weight_by_name(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The rule of the reference README: each tensor is a function of its name and shape."""
    noise = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    noise = np.asarray(noise).astype(np.float32)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return 1 + np.float32(0.2) * np.abs(noise)
    if name.endswith("running_mean"):
        return np.float32(0.1) * noise
    if len(shape) <= 1:
        return (np.float32(1) if name.endswith("weight") else np.float32(0)) + np.float32(0.1) * noise
    fan = np.prod(shape[:-1] if name.endswith(".kernel") else shape[1:])
    return noise * np.float32(1.5 / np.sqrt(fan))


def load_case(path: Path) -> Batch:
    """The case's points as a batch of one scene, voxelised as its network's official code does."""
    case = np.load(path)
    points, colors = case["points"], case["colors"].astype(np.float32)
    if path.name.startswith("oneformer3d_scannet200"):
        mean, std = np.float32(COLOR_MEAN_200) * 255, np.float32(COLOR_STD_200) * 255
        feats = (colors - mean) / std
        cells = np.floor(points / np.float32(VOXEL_SIZE_M))
    else:
        feats = np.hstack([(colors - 127.5) / 127.5, points - points.mean(0, dtype=np.float64)])
        cells = np.floor((points - points.min(0)) / np.float32(VOXEL_SIZE_M))
    coords, point_to_voxel = np.unique(cells.astype(np.int32), axis=0, return_inverse=True)
    point_to_voxel = point_to_voxel.reshape(-1)
    voxel_of = torch.from_numpy(point_to_voxel)
    superpoints = torch.from_numpy(case["superpoints"].astype(np.int64))
    xyz = torch.from_numpy(points)
    return Batch(
        names=[path.stem],
        voxel_coords=torch.from_numpy(np.insert(coords, 0, 0, axis=1)),
        voxel_feats=_mean_over(voxel_of, torch.from_numpy(feats.astype(np.float32)), len(coords)),
        voxel_position_m=_mean_over(voxel_of, xyz, len(coords)),
        point_to_voxel=voxel_of,
        point_to_superpoint=superpoints,
        points_per_scene=[len(points)],
        superpoints_per_scene=[int(superpoints.max()) + 1],
        scene_bounds_m=torch.stack([xyz.amin(0), xyz.amax(0)])[None],
        seeds=[0],
    )


def _mean_over(owner: Tensor, values: Tensor, number: int) -> Tensor:
    """(number, C) mean of the rows of each owner."""
    sums = values.new_zeros(number, values.shape[1]).index_add_(0, owner, values)
    return sums / torch.bincount(owner, minlength=number)[:, None]


def relative_error(found: Tensor, expected: np.ndarray) -> float:
    """‖found - expected‖ / ‖expected‖ (Frobenius)."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} against {expected.shape}"
    difference = found.double().numpy() - expected.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))
