"""Exact depth maps of simple bodies, for what fuses them."""

from collections.abc import Callable, Sequence

import numpy as np

from bifusion.datasets.recordings.frame import Camera, Frame, RecordingInfo
from bifusion.datasets.rooms.cameras import intrinsics, look_at
from bifusion.errors import InputError

HALF = np.array([1.5, 1.2, 1.1])
SIZE = (120, 160)
"""Height, width."""
Hit = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(origin (3,), directions (n, 3)) → (n,) the ray's parameter, infinite where it hits nothing."""


def sphere(radius: float) -> Hit:
    """A ball around the world's origin, seen from outside."""

    def hit(origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        a = (direction**2).sum(axis=1)
        b = direction @ origin
        under = b**2 - a * (origin @ origin - radius**2)
        return np.where(under > 0, (-b - np.sqrt(np.maximum(under, 0))) / a, np.inf)

    return hit


def inside_box(half: np.ndarray) -> Hit:
    """The walls of a box around the origin, seen from within."""

    def hit(origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return ((np.sign(direction) * half - origin) / direction).min(axis=1)

    return hit


def frame_of(hit: Hit, eye: np.ndarray, target: np.ndarray, name: str = "picture") -> Frame:
    """What a camera at `eye` sees; the colour is the surface's position, 0 … 255 over −2 … 2 m."""
    height, width = SIZE
    camera = Camera(intrinsics((width, height), 0.9), SIZE, look_at(np.asarray(eye), np.asarray(target)))
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ np.linalg.inv(camera.K).T
    origin, direction = camera.cam2world[:3, 3], rays @ camera.cam2world[:3, :3].T
    depth = hit(origin, direction)
    depth = np.where(np.isfinite(depth), depth, 0)
    point = origin + depth[:, None] * direction
    color = np.clip(np.rint((point + 2) / 4 * 255), 0, 255).astype(np.uint8).reshape(*SIZE, 3)
    depth_m = depth.reshape(SIZE).astype(np.float32)
    return Frame(name, color, camera, depth_m, camera)


def around(hit: Hit, radius: float, count: int = 12) -> list[Frame]:
    """Frames from a ring and above, all looking at the origin."""
    frames = []
    for number in range(count):
        turn, height = 2 * np.pi * number / count, (-0.6, 0.1, 0.9)[number % 3]
        eye = radius * np.array([np.cos(turn), np.sin(turn), height])
        frames.append(frame_of(hit, eye, np.zeros(3), f"picture {number}"))
    return frames


def box_from_within() -> list[Frame]:
    """Frames from near the middle of a box of half edges HALF."""
    frames = []
    for number in range(12):
        turn = 2 * np.pi * number / 12
        ahead = np.array([np.cos(turn), np.sin(turn), 0])
        eye = 0.3 * ahead + (0, 0, 0.2)
        frames.append(frame_of(inside_box(HALF), eye, ahead + (0, 0, (-0.8, 0.1, 0.7)[number % 3])))
    return frames


class Pictures(RecordingInfo):
    """Frames in memory as a recording; an error in place of a frame is raised."""

    def __init__(self, frames: Sequence[Frame | InputError]):
        super().__init__("pictures", "memory")
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def has_picture(self, index: int) -> bool:
        found = self.frames[index]
        return isinstance(found, InputError) or found.color is not None

    def frame(self, index: int) -> Frame:
        found = self.frames[index]
        if isinstance(found, InputError):
            raise found
        return found

    def depth_of(self, index: int) -> np.ndarray:
        depth_m = self.frame(index).depth_m
        assert depth_m is not None
        return depth_m

    def cam2world(self, index: int, shift: int = 0) -> np.ndarray:
        camera = self.frame(index + shift).depth_camera
        assert camera is not None
        return camera.cam2world
