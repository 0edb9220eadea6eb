"""RGB-D views of a room: sharp textures, sensor noise, Kinect-like depth."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from bifusion.datasets.rooms.cameras import Rig, perturb
from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.datasets.rooms.layout import Layout
from bifusion.datasets.rooms.lighting import Lighting
from bifusion.datasets.rooms.raycast import MISS, RayCaster, plane_distance
from bifusion.datasets.rooms.textures import TILES, albedo
from bifusion.types import View

SUBPIXELS = np.array([(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)])
"""Rotated grid: four samples of a pattern a pixel, which would alias otherwise."""
DEPTH_RANGE_M = (0.4, 8.0)
GRAZING_COSINE = 0.2
"""Surfaces seen at a flatter angle give no depth."""
EDGE_STEP_M = 0.1
EDGE_DROPOUT = 0.7
SPECKLE_DROPOUT = 0.01


def render_view(
    name: str, rig: Rig, layout: Layout, rays: RayCaster, lighting: Lighting,
    config: RoomsConfig, rng: np.random.Generator,
) -> View:  # fmt: skip
    """One view from `rig`; the poses written into it carry the configured error."""
    color = _render_color(rig, layout, rays, lighting, config, rng)
    depth_m, cosine = _render_depth(rig, rays, config.depth_size)
    if config.depth_noise > 0:
        depth_m = _measure_depth(depth_m, cosine, config.depth_noise, rng)
    recorded = perturb(rig, config, rng)
    return View(
        name=name,
        color=color,
        depth_m=depth_m.astype(np.float32),
        color_K=recorded.color_K,
        depth_K=recorded.depth_K,
        color_cam2world=recorded.color_cam2world,
        depth_cam2world=recorded.depth_cam2world,
    )


def pixel_rays(K: np.ndarray, cam2world: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """(n, 3) world directions of pixels (n, 2) as x, y; length 1 along the camera's z axis."""
    camera = np.concatenate([(pixel - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((len(pixel), 1))], axis=1)
    return (camera @ cam2world[:3, :3].T).astype(np.float32)


def pixel_grid(size: tuple[int, int]) -> np.ndarray:
    """(H·W, 2) x, y of every pixel's centre, row by row."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)


def _render_color(
    rig: Rig, layout: Layout, rays: RayCaster, lighting: Lighting,
    config: RoomsConfig, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """(H, W, 3) uint8; exposure and white balance differ from view to view."""
    faces = rays.faces
    pixel, eye = pixel_grid(config.image_size), rig.color_cam2world[:3, 3].astype(np.float32)
    direction = pixel_rays(rig.color_K, rig.color_cam2world, pixel)
    face, t = rays.first_hit(eye, direction)
    hit = np.flatnonzero(face != MISS)
    face, t, direction = face[hit], t[hit].astype(np.float32), direction[hit]
    item, point = faces.item[face], eye + t[:, None] * direction
    period, contrast = config.texture_period_m, config.texture_contrast
    surface = albedo(layout.look, item, faces.surface_uv(face, point), period, contrast)
    patterned = np.flatnonzero((layout.look.pattern[item] > 0) & (layout.look.pattern[item] < TILES))
    total = np.zeros((len(patterned), 3), dtype=np.float32)
    for shift in SUBPIXELS:
        ray = pixel_rays(rig.color_K, rig.color_cam2world, pixel[hit[patterned]] + shift)
        across = eye + plane_distance(faces, face[patterned], eye, ray)[:, None] * ray
        uv = faces.surface_uv(face[patterned], across)
        total += albedo(layout.look, item[patterned], uv, period, contrast)
    surface[patterned] = total / len(SUBPIXELS)

    exposure = rng.uniform(0.85, 1.1) * rng.uniform(0.96, 1.04, 3).astype(np.float32)
    image = np.zeros((len(pixel), 3), dtype=np.float32)
    image[hit] = surface * (255 * lighting.shade(point, faces.normal[face])[:, None] * exposure)
    image += config.color_noise * rng.standard_normal(image.shape, dtype=np.float32)
    width, height = config.image_size
    return np.clip(np.rint(image), 0, 255).astype(np.uint8).reshape(height, width, 3)


def _render_depth(rig: Rig, rays: RayCaster, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """True depth (H, W), 0 where no surface is, and the cosine of the viewing angle."""
    faces = rays.faces
    direction = pixel_rays(rig.depth_K, rig.depth_cam2world, pixel_grid(size))
    face, depth = rays.first_hit(rig.depth_cam2world[:3, 3].astype(np.float32), direction)
    cosine = -(direction * faces.normal[face]).sum(axis=1) / np.linalg.norm(direction, axis=1)
    shape = size[1], size[0]
    return np.where(face == MISS, 0, depth).reshape(shape), cosine.reshape(shape)


def _measure_depth(
    depth_m: np.ndarray, cosine: np.ndarray, factor: float, rng: np.random.Generator
) -> np.ndarray:
    """What a Kinect makes of a true depth map.

    Axial noise of Nguyen, Izadi and Lovell, "Modeling Kinect Sensor Noise", 3DIMPVT 2012:
    σ = 0.0012 + 0.0019 (z − 0.4)² metres. No reading out of range, at grazing angles, at most edges.
    """
    sigma = 0.0012 + 0.0019 * (depth_m - 0.4) ** 2
    noisy = depth_m + factor * sigma * rng.standard_normal(depth_m.shape)
    step = maximum_filter(depth_m, 3) - minimum_filter(depth_m, 3)
    chance = rng.uniform(size=depth_m.shape)
    lost = (step > EDGE_STEP_M) & (chance < EDGE_DROPOUT) | (chance < SPECKLE_DROPOUT * factor)
    lost |= (cosine < GRAZING_COSINE) | (depth_m < DEPTH_RANGE_M[0]) | (depth_m > DEPTH_RANGE_M[1])
    return np.where(lost, 0, noisy)
