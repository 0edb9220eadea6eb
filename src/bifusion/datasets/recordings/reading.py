"""What stored poses mean: which camera axes, which direction, and which pose is whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Axes = Literal["opencv", "opengl"]
"""x right, y down, z forward; or x right, y up, looking along −z, as ARKit and OpenGL have it."""
Direction = Literal["cam2world", "world2cam"]
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
"""From either camera's axes to the other's."""


@dataclass(frozen=True)
class Reading:
    """How the poses of a recording are read."""

    axes: Axes = "opencv"
    poses: Direction = "cam2world"
    pose_shift: int = 0
    """Picture i has pose i + pose_shift of the list."""

    def cam2world(self, stored: np.ndarray) -> np.ndarray:
        """(..., 4, 4) OpenCV camera to world, of stored poses."""
        pose = inverse(stored) if self.poses == "world2cam" else stored
        return pose @ FLIP if self.axes == "opengl" else pose

    def stored(self, cam2world: np.ndarray) -> np.ndarray:
        """(..., 4, 4) what a file of this reading holds for `cam2world`."""
        pose = cam2world @ FLIP if self.axes == "opengl" else cam2world
        return inverse(pose) if self.poses == "world2cam" else pose

    def options_from(self, declared: Reading) -> str:
        """The command line's options that change `declared` to this."""
        changed = [
            f"--axes {self.axes}" if self.axes != declared.axes else "",
            f"--poses {self.poses}" if self.poses != declared.poses else "",
            f"--pose-shift {self.pose_shift}" if self.pose_shift != declared.pose_shift else "",
        ]
        return " ".join(option for option in changed if option)


def inverse(pose: np.ndarray) -> np.ndarray:
    """(..., 4, 4) inverse of rigid transforms."""
    inverted = np.zeros_like(pose)
    turned = np.swapaxes(pose[..., :3, :3], -1, -2)
    inverted[..., :3, :3] = turned
    inverted[..., :3, 3] = -(turned @ pose[..., :3, 3:])[..., 0]
    inverted[..., 3, 3] = 1
    return inverted
