"""How well frames of a recording agree, as its poses are read or in another way.

Depth is back-projected by one frame's camera, taken to another's by the poses, and compared with what
that one measured: the median distance of nearest neighbours. Right readings give a few millimetres to
two centimetres, mostly the spacing of pixels; wrong ones five times as much or more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from bifusion.datasets.recordings.frame import Recording
from bifusion.datasets.recordings.reading import Reading, inverse
from bifusion.errors import InputError

MOST_PAIRS = 10
MOST_ANCHORS, MOST_OTHERS = 100, 2000
"""Frames for which a partner is sought, and among which."""
APART_M, APART_RAD = 0.05, math.radians(5)
"""How far a camera must have moved or turned for its frame to be worth comparing with."""
TURN_PER_METRE = math.radians(45)
"""A turn that hides as much of what was seen as a metre's walk."""
NEAR = 0.5
"""Metres or their like within which frames surely overlap."""
MOST_POINTS, MOST_ASKED, FEWEST_POINTS = 20_000, 500, 50
"""Of a frame."""
FARTHEST_M = 0.5
"""Distances beyond it are all alike: wrong."""


@dataclass
class Pair:
    """Two frames whose depth overlaps."""

    first: int
    second: int
    asked: np.ndarray
    """(K, 3) metres, of the first frame, in its camera."""
    tree: KDTree
    """Points of the second, in its camera."""


@dataclass
class Sampled:
    """What the check looks at."""

    pairs: list[Pair] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """What is wrong with each frame that could not be read."""
    depths: list[np.ndarray] = field(default_factory=list)
    """Measured depth of each frame that could, (K,) metres."""
    shares: list[float] = field(default_factory=list)
    """Share of its pixels that have one."""

    @property
    def median_depth_m(self) -> float:
        """0 where nothing was measured."""
        every = np.concatenate(self.depths)
        return float(np.median(every)) if len(every) else 0.0


def sample(recording: Recording) -> Sampled:
    """Pairs of frames from near places, over the whole recording.

    Raises InputError: none of the frames that were tried can be read.
    """
    sampled = Sampled()
    points: dict[int, np.ndarray] = {}
    pairs = neighbours(recording) or [(0, 0)]
    for index in sorted({index for pair in pairs for index in pair}):
        try:
            points[index], share = _back_projected(recording, index)
        except InputError as error:
            sampled.unreadable.append(str(error))
            continue
        sampled.shares.append(share)
        sampled.depths.append(points[index][:, 2])
    if not points:
        raise InputError(f"none of the frames that were tried can be read: {sampled.unreadable[0]}")
    shown = {index for index, found in points.items() if len(found) >= FEWEST_POINTS}
    trees = {second: KDTree(points[second]) for _, second in pairs if second in shown}
    for first, second in pairs:
        if first != second and first in shown and second in shown:
            asked = points[first][:: math.ceil(len(points[first]) / MOST_ASKED)]
            sampled.pairs.append(Pair(first, second, asked, trees[second]))
    return sampled


def agreement(
    recording: Recording,
    sampled: Sampled,
    reading: Reading,
    depth_factor: float = 1.0,
    scalar_first: bool = False,
) -> float:
    """Median distance of nearest neighbours over the pairs, if poses are read as `reading` and depth is
    `depth_factor` times what it was read as; in the metres it was read in. NaN without pairs.

    `scalar_first`: the poses' quaternions, read with the scalar last, have it first."""
    shift = reading.pose_shift - recording.reading.pose_shift
    medians = []
    for pair in sampled.pairs:
        first, second = (
            reading.cam2world(stored_pose(recording, k, shift, scalar_first))
            for k in (pair.first, pair.second)
        )
        to_second = inverse(second) @ first
        if not np.isfinite(to_second).all():
            continue
        moved = pair.asked @ to_second[:3, :3].T + to_second[:3, 3] / depth_factor
        distance = pair.tree.query(moved, distance_upper_bound=FARTHEST_M)[0]
        medians.append(min(float(np.median(distance)), FARTHEST_M))
    return float(np.median(medians)) if medians else float("nan")


def stored_pose(recording: Recording, index: int, shift: int, scalar_first: bool) -> np.ndarray:
    """(4, 4) as the recording's file has it, or as it would be with its quaternion's first number for
    the scalar in place of the last."""
    stored = recording.reading.stored(recording.cam2world(index, shift))
    if scalar_first and np.isfinite(stored).all():
        first = Rotation.from_matrix(stored[:3, :3]).as_quat()
        stored[:3, :3] = Rotation.from_quat(np.roll(first, -1)).as_matrix()
    return stored


def neighbours(recording: Recording) -> list[tuple[int, int]]:
    """At most MOST_PAIRS pairs: frames over the whole recording, each with the nearest that is some way
    off, in place and in view; far pairs only where there are no near ones."""
    count = len(recording)
    others = np.unique(np.linspace(0, count - 1, min(count, MOST_OTHERS)).astype(int))
    anchors = np.unique(np.linspace(0, len(others) - 1, min(count, MOST_ANCHORS)).astype(int))
    if len(others) < 2:
        return []
    poses = np.stack([recording.cam2world(int(k)) for k in others])
    found = []
    for anchor in anchors:
        moved = np.linalg.norm(poses[:, :3, 3] - poses[anchor, :3, 3], axis=1)
        cosine = (np.einsum("kij,ij->k", poses[:, :3, :3], poses[anchor, :3, :3]) - 1) / 2
        turned = np.arccos(np.clip(cosine, -1, 1))
        cost = moved + turned / TURN_PER_METRE
        apart = (moved >= APART_M) | (turned >= APART_RAD)
        partner = int(np.where(apart, cost, np.inf).argmin()) if apart.any() else int(cost.argmax())
        if partner != anchor:
            found.append((float(cost[partner]), int(others[anchor]), int(others[partner])))
    near = [pair for pair in found if pair[0] <= NEAR]
    if len(near) < MOST_PAIRS // 2:
        near = sorted(found)[: MOST_PAIRS // 2]
    step = max(1, math.ceil(len(near) / MOST_PAIRS))
    return [(first, second) for _, first, second in near[::step]]


def _back_projected(recording: Recording, index: int) -> tuple[np.ndarray, float]:
    """(K, 3) points in the depth camera of frame `index`, and the share of pixels that has a depth."""
    frame = recording.frame(index, color=False)
    if frame.depth_m is None or frame.depth_camera is None:
        raise InputError(f"{recording.name}: frame {frame.name} has no depth; scans are made of depth")
    depth_m, K = frame.depth_m, frame.depth_camera.K
    stride = math.ceil(math.sqrt(depth_m.size / MOST_POINTS))
    row, column = np.mgrid[: depth_m.shape[0] : stride, : depth_m.shape[1] : stride]
    z = depth_m[::stride, ::stride].astype(np.float64)
    x, y = (column - K[0, 2]) / K[0, 0] * z, (row - K[1, 2]) / K[1, 1] * z
    return np.stack([x, y, z], axis=2)[z > 0], float((depth_m > 0).mean())
