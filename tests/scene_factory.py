"""Tiny scenes for tests: a room with two boxes in it, and views traced through the same geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bifusion.data.scene_folder import write_scene
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.types import Scene, View

ROOM = np.array([[0.0, 0.0, 0.0], [2.4, 2.0, 1.5]])
"""The room's corners in metres; it has a floor, four walls and no ceiling."""

BOXES = np.array([[[0.3, 0.4, 0.0], [0.9, 1.0, 0.5]], [[1.5, 1.2, 0.0], [1.9, 1.6, 0.8]]])
"""A table and a chair, as boxes."""

BOX_CLASSES = {SCANNET20: (6, 4), SCANNET200: (3, 1)}
FLOOR_CLASS = {SCANNET20: 1, SCANNET200: 2}
SURFACE_COLORS = np.array(
    [[150, 110, 60], [200, 200, 190], [180, 200, 200], [200, 180, 200], [190, 190, 160],
     [220, 40, 40], [160, 30, 30], [40, 60, 220], [30, 40, 160]], dtype=np.uint8,
)  # fmt: skip
"""Of the surfaces: floor, walls −x +x −y +y, then top and sides of each box."""


def make_tiny_scene(
    folder: Path,
    *,
    seed: int = 0,
    num_views: int = 2,
    annotated: bool = True,
    color_size: tuple[int, int] = (64, 48),
    depth_size: tuple[int, int] = (40, 30),
    depth_offset_m: float = 0.0,
) -> Path:
    """Write a scene of about 2,000 points, 9 superpoints and 2 instances; returns `folder`.

    Colour and depth images differ in size; `depth_offset_m` also moves the depth camera to the
    right of the colour camera by that much. `seed` moves the points and cameras a little.
    """
    rng = np.random.default_rng(seed)
    coord, surface = sample_surfaces(rng)
    instance = np.where(surface < 5, -1, (surface - 5) // 2)
    segments = {}
    for labels, box_classes in BOX_CLASSES.items():
        of_surface = [FLOOR_CLASS[labels], 0, 0, 0, 0, *np.repeat(box_classes, 2)]
        segments[labels] = np.array(of_surface)[surface]
    scene = Scene(
        name=folder.name,
        coord=coord.astype(np.float32),
        color=SURFACE_COLORS[surface],
        superpoint=surface.astype(np.int32),
        instance=instance.astype(np.int32) if annotated else None,
    )
    views = [make_view(index, rng, color_size, depth_size, depth_offset_m) for index in range(num_views)]
    write_scene(
        folder, scene, segments=segments if annotated else {}, views=views, source="scene_factory"
    )
    return folder


def sample_surfaces(rng: np.random.Generator, spacing_m: float = 0.09) -> tuple[np.ndarray, np.ndarray]:
    """Jittered grids on all surfaces: coordinates (N, 3) and surface index (N,)."""
    floor = _rectangle(rng, ROOM[0], ROOM[1], axis=2, at=0.0, spacing_m=spacing_m)
    covered = np.any(
        [((floor[:, :2] > b[0, :2]) & (floor[:, :2] < b[1, :2])).all(axis=1) for b in BOXES], axis=0
    )
    parts, surface = [floor[~covered]], [0]
    for axis in (0, 1):
        for side in (0, 1):
            parts.append(_rectangle(rng, *ROOM, axis=axis, at=ROOM[side, axis], spacing_m=spacing_m))
            surface.append(len(surface))
    for box in BOXES:
        sides = [
            _rectangle(rng, *box, axis=a, at=box[s, a], spacing_m=spacing_m)
            for a in (0, 1)
            for s in (0, 1)
        ]
        parts += [
            _rectangle(rng, *box, axis=2, at=box[1, 2], spacing_m=spacing_m),
            np.concatenate(sides),
        ]
        surface += [len(surface), len(surface) + 1]
    return np.concatenate(parts), np.repeat(surface, [len(part) for part in parts])


def _rectangle(rng, low, high, *, axis: int, at: float, spacing_m: float) -> np.ndarray:
    others = [a for a in range(3) if a != axis]
    lines = [np.arange(low[a] + spacing_m / 2, high[a], spacing_m) for a in others]
    grid = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2)
    points = np.full((len(grid), 3), at)
    points[:, others] = grid + rng.uniform(-0.3, 0.3, grid.shape) * spacing_m
    return points


def make_view(
    index: int,
    rng: np.random.Generator,
    color_size: tuple[int, int],
    depth_size: tuple[int, int],
    depth_offset_m: float,
) -> View:
    """View `index`, from near a corner of the room towards its middle, slightly moved by `rng`."""
    corner = ROOM[[index % 2, (index // 2) % 2, 1], [0, 1, 2]]
    middle = np.array([1.2, 1.0, 0.2])
    eye = corner + 0.15 * (middle - corner) + rng.uniform(-0.03, 0.03, 3)
    color_cam2world = look_at(eye, middle)
    depth_cam2world = color_cam2world.copy()
    depth_cam2world[:3, 3] += depth_offset_m * color_cam2world[:3, 0]
    color_K, depth_K = camera_matrix(color_size), camera_matrix(depth_size)
    surface, _ = trace(color_cam2world, color_K, color_size)
    _, depth_m = trace(depth_cam2world, depth_K, depth_size)
    color = np.where(surface[..., None] < 0, np.uint8(0), SURFACE_COLORS[surface])
    return View(f"{index:05d}", color, depth_m, color_K, depth_K, color_cam2world, depth_cam2world)


def camera_matrix(size: tuple[int, int]) -> np.ndarray:
    """Pinhole matrix of about 67° across, its principal point a little off the centre."""
    width, height = size
    return np.array(
        [[0.75 * width, 0, 0.51 * width - 0.5], [0, 0.75 * width, 0.48 * height - 0.5], [0, 0, 1.0]]
    )


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """cam2world of a camera at `eye` looking at `target`, image up along +z."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0, 0, 1.0))
    right /= np.linalg.norm(right)
    cam2world = np.eye(4)
    cam2world[:3] = np.stack([right, np.cross(forward, right), forward, eye], axis=1)
    return cam2world


def trace(cam2world: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Surface index (H, W), −1 for open sky, and depth along z (H, W) float32 metres, 0 there."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    rays = np.stack(
        [(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x, dtype=float)], axis=-1
    )
    rays = rays @ cam2world[:3, :3].T
    eye = cam2world[:3, 3]
    rays = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    depth = np.where(rays > 0, (ROOM[1] - eye) / rays, (ROOM[0] - eye) / rays)
    axis = depth.argmin(axis=-1)
    best = depth.min(axis=-1)
    upwards = np.take_along_axis(rays, axis[..., None], axis=-1)[..., 0] > 0
    surface = np.where(axis == 2, np.where(upwards, -1, 0), 1 + 2 * axis + upwards)
    for index, box in enumerate(BOXES):
        sides = np.sort([(box[0] - eye) / rays, (box[1] - eye) / rays], axis=0)
        enter, leave = sides[0].max(axis=-1), sides[1].min(axis=-1)
        hit = (enter < leave) & (enter > 0) & (enter < best)
        on_top = sides[0].argmax(axis=-1) == 2
        surface = np.where(hit, 5 + 2 * index + ~on_top, surface)
        best = np.where(hit, enter, best)
    return surface, np.where(surface < 0, 0, best).astype(np.float32)
