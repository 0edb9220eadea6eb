"""Voxels to measure on: generated rooms of any size, and the real scan."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bifusion.data.scene_folder import load_scene
from bifusion.data.voxels import voxelize
from bifusion.datasets.scannet.prepare import prepare_scannet
from bifusion.labels.sets import SCANNET20
from bifusion.rng import numpy_rng

WALL_VOXELS = 125
"""2.5 m of 2 cm."""
VOXELS_PER_BOX = 6000


def room_voxels(count: int, seed: int = 0) -> Tensor:
    """(about `count`, 4) int32, sorted: floor, four walls and boxes of a room, surfaces with noise.

    Larger rooms have more floor and more boxes; how many neighbours a voxel has stays the same.
    """
    rng = numpy_rng(seed, "benchmark room", count)
    boxes = max(1, count // VOXELS_PER_BOX // 2)
    surplus = count - boxes * VOXELS_PER_BOX
    side = int(np.sqrt(4 * WALL_VOXELS**2 + surplus) - 2 * WALL_VOXELS)  # side² + 4·side·wall = surplus
    parts = [_surface(rng, (side, side, 1), (0, 0, 0))]
    for x, y in ((0, 0), (side, 0)):
        parts.append(_surface(rng, (1, side, WALL_VOXELS), (x, y, 0)))
    for x, y in ((0, 0), (0, side)):
        parts.append(_surface(rng, (side, 1, WALL_VOXELS), (x, y, 0)))
    edge = int(np.sqrt(VOXELS_PER_BOX / 5))
    for _ in range(boxes):
        x, y = rng.integers(0, max(1, side - edge), 2)
        for size, corner in (
            ((edge, edge, 1), (x, y, edge)),
            ((1, edge, edge), (x, y, 0)),
            ((1, edge, edge), (x + edge, y, 0)),
            ((edge, 1, edge), (x, y, 0)),
            ((edge, 1, edge), (x, y + edge, 0)),
        ):
            parts.append(_surface(rng, size, corner))
    voxels = np.unique(np.concatenate(parts), axis=0)
    return with_scene(voxels)


def _surface(rng: np.random.Generator, size: tuple[int, ...], corner: tuple[int, ...]) -> np.ndarray:
    """A sheet of voxels, each moved by at most one voxel across it."""
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1).reshape(-1, 3)
    across = size.index(1)
    grid[:, across] += (rng.random(len(grid)) < 0.25).astype(grid.dtype)
    return (grid + np.asarray(corner)).astype(np.int32)


def with_scene(voxels: np.ndarray) -> Tensor:
    """(M, 4) int32 of (M, 3), all in scene 0."""
    coords = np.concatenate([np.zeros((len(voxels), 1), np.int32), voxels], axis=1)
    return torch.from_numpy(coords.astype(np.int32))


def real_data() -> Path | None:
    """The folder of real recordings, None where it is missing."""
    folder = Path(os.environ.get("BIFUSION_REAL_DATA", "../shared/data"))
    return folder if (folder / "scannet").is_dir() else None


def real_dataset(out: Path) -> Path | None:
    """A data set with the one real scan and its views, prepared under `out`; None where missing."""
    source = real_data()
    if source is None:
        return None
    scannet = source / "scannet"
    prepare_scannet(
        scannet / "scans",
        out,
        labels=scannet / "meta" / "scannetv2-labels.combined.tsv",
        posed_images=scannet / "posed_images",
    )
    return out


def real_voxels(dataset: Path, voxel_size_m: float = 0.02) -> Tensor:
    """(M, 4) int32 voxels of the real scan."""
    (folder,) = (dataset / "train").iterdir()
    scene = load_scene(folder, SCANNET20, read_views=False)
    return with_scene(voxelize(np.asarray(scene.coord), voxel_size_m).coords)
