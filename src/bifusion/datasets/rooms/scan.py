"""The point cloud of a room as a low-resolution scanner leaves it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.datasets.rooms.layout import CEILING, Layout
from bifusion.datasets.rooms.lighting import Lighting
from bifusion.datasets.rooms.raycast import Faces, RayCaster
from bifusion.datasets.rooms.textures import blurred_albedo

SCAN_HEIGHT_M = 2.2
"""Nothing above was scanned."""
GAP_M = 0.08
"""Scanners do not look into gaps narrower than this."""
NORMAL_NOISE = 0.05
"""Radians, after the smoothing."""
SMOOTHING_NEIGHBORS = 5
"""Points whose normals and colours flow into one, itself included, as in a fused surface."""


@dataclass
class Scan:
    """N scanned points with their annotation."""

    coord: np.ndarray
    """(N, 3) float32 metres."""
    color: np.ndarray
    """(N, 3) uint8."""
    normal: np.ndarray
    """(N, 3) float32 unit."""
    item: np.ndarray
    """(N,) int, row of the layout's items; annotation, no measurement."""


def scan_room(
    layout: Layout, rays: RayCaster, lighting: Lighting, config: RoomsConfig, rng: np.random.Generator
) -> Scan:
    """Points on every surface a scanner reaches: noisy places, smoothed normals, blurred colours."""
    faces = rays.faces
    face, uv = _surface_places(faces, config.point_spacing_m, rng)
    point = faces.centre[face] + uv[:, :1] * faces.u[face] + uv[:, 1:] * faces.v[face]
    labels = np.array(layout.labels)[faces.item[face]]
    inside = ((point[:, :2] > -1e-3) & (point[:, :2] < np.array(layout.size_m) + 1e-3)).all(axis=1)
    reached = inside & (point[:, 2] > -1e-3) & (point[:, 2] < SCAN_HEIGHT_M) & (labels != CEILING)
    reached &= faces.normal[face, 2] > -0.5
    face, uv, point = face[reached], uv[reached], point[reached]
    open_to = _open(layout, rays, face, point)
    face, uv, point = face[open_to], uv[open_to], point[open_to]

    normal, item = faces.normal[face], faces.item[face]
    color = blurred_albedo(
        layout.look, item, uv, config.texture_period_m, config.texture_contrast, config.color_blur_m
    )
    color = color * lighting.shade(point, normal)[:, None]
    coord = point + rng.normal(0, config.point_noise_m, point.shape)
    nearest = (
        KDTree(coord).query(coord, k=min(SMOOTHING_NEIGHBORS, len(coord)))[1].reshape(len(coord), -1)
    )
    normal = normal[nearest].mean(axis=1) + rng.normal(0, NORMAL_NOISE, normal.shape)
    color = 255 * color[nearest].mean(axis=1) + rng.normal(0, config.color_noise, color.shape)
    return Scan(
        coord=coord.astype(np.float32),
        color=np.clip(np.rint(color), 0, 255).astype(np.uint8),
        normal=(normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32),
        item=item,
    )


def _surface_places(
    faces: Faces, spacing: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Face and surface coordinates of one jittered place in each grid cell of every face."""
    chosen, places = [], []
    for face, half in enumerate(faces.half):
        counts = np.maximum(1, np.rint(2 * half / spacing).astype(int))
        cells = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 2)
        jitter = rng.uniform(0.15, 0.85, cells.shape)
        places.append((cells + jitter) / counts * 2 * half - half)
        chosen.append(np.full(len(cells), face))
    return np.concatenate(chosen), np.concatenate(places).astype(np.float32)


def _open(layout: Layout, rays: RayCaster, face: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(n,) bool: there is space before the surface, neither a narrow gap nor the inside of a box.

    Where boxes touch a ray meets two faces at once, and which of them a ray caster names is its own
    affair: that of another machine names the other. So faces are asked for their distance alone.
    """
    normal = rays.faces.normal[face]
    before = point + 1e-3 * normal
    _, distance = rays.first_hit(before, normal)
    return (distance > GAP_M) & ~_within(layout, before)


def _within(layout: Layout, point: np.ndarray) -> np.ndarray:
    """(n,) bool: inside a box."""
    within = np.zeros(len(point), bool)
    boxes = zip(layout.centre, layout.half, np.cos(layout.yaw), np.sin(layout.yaw), strict=True)
    for centre, half, cos, sin in boxes:
        x, y, z = (point - centre).T
        turned = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1)
        within |= (np.abs(turned) < half).all(axis=1)
    return within
