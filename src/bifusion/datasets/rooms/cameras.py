"""Where the views of a room are taken from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.datasets.rooms.layout import Layout
from bifusion.datasets.rooms.raycast import RayCaster

FOCAL = 0.85
"""Colour focal length in image widths (61° across)."""
DEPTH_FOCAL = 0.9
BASELINE_M = 0.025
CANDIDATES = 24
PROBES = 1000
"""Points whose visibility decides which candidates become views."""


@dataclass
class Rig:
    """Colour and depth camera of one view, as they truly are."""

    color_K: np.ndarray
    color_cam2world: np.ndarray
    depth_K: np.ndarray
    depth_cam2world: np.ndarray


def choose_rigs(
    layout: Layout, rays: RayCaster, point: np.ndarray, config: RoomsConfig, rng: np.random.Generator
) -> list[Rig]:
    """`config.views` cameras, drawn at random and picked so that together they see about
    `config.cover` of the points.

    Cameras look at things, whatever their class, and know nothing of textures.
    """
    if config.views == 0:
        return []
    K = intrinsics(config.image_size, FOCAL)
    probes = point[rng.choice(len(point), min(PROBES, len(point)), replace=False)]
    poses = [_look(layout, rng) for _ in range(CANDIDATES + config.views)]
    seen = np.stack([_sees(rays, probes, K, pose, config.image_size) for pose in poses])
    covered, chosen = np.zeros(len(probes), dtype=bool), []
    for view in range(1, config.views + 1):
        miss = np.abs((seen | covered).mean(axis=1) - config.cover * view / config.views)
        miss[chosen] = np.inf
        chosen.append(int(miss.argmin()))
        covered |= seen[chosen[-1]]
    return [_rig(K, poses[row], config, rng) for row in chosen]


def perturb(rig: Rig, config: RoomsConfig, rng: np.random.Generator) -> Rig:
    """The rig as its poses are recorded: one small error for both cameras."""
    error = np.eye(4)
    error[:3, :3] = _rotation(rng.normal(0, 1, 3) * config.pose_noise_rad)
    error[:3, 3] = rng.normal(0, 1, 3) * config.pose_noise_m
    # On the camera's side: the error turns the rig about itself, not about the room's corner.
    offset = np.linalg.inv(rig.color_cam2world) @ rig.depth_cam2world
    color = rig.color_cam2world @ error
    return Rig(rig.color_K, color, rig.depth_K, color @ offset)


def intrinsics(size: tuple[int, int], focal: float) -> np.ndarray:
    """(3, 3) pinhole matrix of an image (width, height), `focal` in image widths."""
    width, height = size
    return np.array(
        [[focal * width, 0, (width - 1) / 2], [0, focal * width, (height - 1) / 2], [0, 0, 1.0]]
    )


def _look(layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """(4, 4) camera-to-world of a camera in free space that looks at a random thing."""
    things = np.flatnonzero(layout.instance >= 0)
    size = np.array(layout.size_m)
    reach = _reach(layout)
    while True:
        eye = np.array([*rng.uniform(0.4, size - 0.4), rng.uniform(1.2, 1.7)])
        target = np.array([*rng.uniform(0.2, 0.8, 2) * size, 0.8])
        if len(things):
            part = rng.choice(np.flatnonzero(layout.item == rng.choice(things)))
            target = layout.centre[part] + rng.normal(0, 0.2, 3)
        blocked = (np.abs(eye - layout.centre) < reach).all(axis=1).any()
        if not blocked and np.linalg.norm((target - eye)[:2]) > 1.2:
            return look_at(eye, target)


def _reach(layout: Layout) -> np.ndarray:
    """(K, 3) half sizes of each box along the room's axes, with space for a camera around it."""
    cos, sin = np.abs(np.cos(layout.yaw)), np.abs(np.sin(layout.yaw))
    x, y, z = layout.half.T
    return np.stack([cos * x + sin * y, sin * x + cos * y, z], axis=1) + 0.25


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(4, 4) camera-to-world: x right, y down, z towards `target`, no roll."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0, 0, 1))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, eye], axis=1)
    return pose


def _sees(
    rays: RayCaster, point: np.ndarray, K: np.ndarray, cam2world: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """(n,) bool: the point lies in the image and nothing stands before it."""
    direction = point - cam2world[:3, 3]
    camera = direction @ cam2world[:3, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = camera[:, :2] / camera[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2]
    inside = (camera[:, 2] > 0) & (pixel > -0.5).all(axis=1) & (pixel < np.array(size) - 0.5).all(axis=1)
    rows = np.flatnonzero(inside)
    _, t = rays.first_hit(cam2world[:3, 3], direction[rows])
    inside[rows] = t > 0.98
    return inside


def _rig(K: np.ndarray, pose: np.ndarray, config: RoomsConfig, rng: np.random.Generator) -> Rig:
    """The colour camera with its depth camera: itself, or one a little to the right, turned slightly."""
    if config.same_camera:
        return Rig(K, pose, intrinsics(config.depth_size, FOCAL), pose)
    offset = np.eye(4)
    offset[:3, :3] = _rotation(rng.normal(0, 0.005, 3))
    offset[0, 3] = BASELINE_M
    return Rig(K, pose, intrinsics(config.depth_size, DEPTH_FOCAL), pose @ offset)


def _rotation(vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation of a rotation vector."""
    return Rotation.from_rotvec(vector).as_matrix()
