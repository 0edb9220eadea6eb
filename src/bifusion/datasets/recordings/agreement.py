"""How well neighbouring frames of a recording agree, as its poses are read or in another way.

Depth is back-projected by one frame's camera, taken to another's by the poses, and compared with what
that one measured: the median distance of nearest neighbours. Right readings give a few millimetres to
two centimetres, mostly the spacing of pixels; wrong ones five times as much or more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from bifusion.datasets.recordings.frame import Recording
from bifusion.datasets.recordings.reading import Reading, inverse
from bifusion.types import InputError

MOST_PAIRS = 10
FEW_FRAMES = 20
"""With no more of them, all neighbours are compared; else pairs that lie apart."""
STRIDE = 4
MOST_POINTS = 20_000
"""Of a frame; depth maps of more pixels are taken at a larger stride."""
MOST_ASKED = 2_000
FEWEST_POINTS = 50
APART_M, APART_RAD = 0.1, math.radians(10)
"""How far a camera has moved or turned when its frame is worth comparing with."""


@dataclass
class Pair:
    """Two frames whose depth overlaps."""

    first: int
    second: int
    asked: np.ndarray
    """(K, 3) metres, of the first frame, in its camera."""
    tree: cKDTree
    """Points of the second, in its camera."""


@dataclass
class Sampled:
    """What the check looks at."""

    pairs: list[Pair]
    median_depth_m: float
    measured: float
    """Share of pixels that have a depth."""
    unreadable: list[str]
    """What is wrong with each frame that could not be read."""


def sample(recording: Recording) -> Sampled:
    """Pairs of neighbouring frames, over the whole recording, that show enough.

    Raises InputError: no frame's depth can be read.
    """
    points: dict[int, np.ndarray | None] = {}
    unreadable: list[str] = []
    depths, shares = [], []

    def points_of(index: int) -> np.ndarray | None:
        if index not in points:
            try:
                camera_points, share = _back_projected(recording, index)
            except InputError as error:
                unreadable.append(str(error))
                points[index] = None
                return None
            shares.append(share)
            depths.append(camera_points[:, 2])
            points[index] = camera_points if len(camera_points) >= FEWEST_POINTS else None
        return points[index]

    trees: dict[int, cKDTree] = {}
    pairs = []
    for first, second in _neighbours(recording):
        near, far = points_of(first), points_of(second)
        if near is None or far is None:
            continue
        trees.setdefault(second, cKDTree(far))
        asked = near[:: max(1, math.ceil(len(near) / MOST_ASKED))]
        pairs.append(Pair(first, second, asked, trees[second]))
    if not depths:
        points_of(0)
    if not depths:
        raise InputError(f"{recording.name}: no frame that was tried can be read; {unreadable[0]}")
    every = np.concatenate(depths)
    median = float(np.median(every)) if len(every) else 0.0
    return Sampled(pairs, median, float(np.mean(shares)), unreadable)


def agreement(
    recording: Recording, sampled: Sampled, reading: Reading, depth_factor: float = 1.0
) -> float:
    """Median distance in metres of nearest neighbours, over the pairs, if poses are read as `reading`
    and depth is `depth_factor` times what it was read as (in the unit it was read in); NaN for no pair."""
    shift = reading.pose_shift - recording.reading.pose_shift
    medians = []
    for pair in sampled.pairs:
        if not 0 <= min(pair.first, pair.second) + shift <= max(pair.first, pair.second) + shift < len(
            recording
        ):
            continue
        first, second = (
            reading.cam2world(recording.reading.stored(recording.cam2world(k + shift)))
            for k in (pair.first, pair.second)
        )
        to_second = inverse(second) @ first
        moved = pair.asked @ to_second[:3, :3].T + to_second[:3, 3] / depth_factor
        medians.append(float(np.median(pair.tree.query(moved)[0])))
    return float(np.median(medians)) if medians else float("nan")


def _back_projected(recording: Recording, index: int) -> tuple[np.ndarray, float]:
    """(K, 3) points in the depth camera of frame `index`, and the share of pixels that has a depth."""
    frame = recording.frame(index)
    if frame.depth_m is None or frame.depth_camera is None:
        raise InputError(f"{recording.name}: frame {frame.name} has no depth; scans are made of depth")
    depth_m, K = frame.depth_m, frame.depth_camera.K
    stride = max(STRIDE, math.ceil(math.sqrt(depth_m.size / MOST_POINTS)))
    row, column = np.mgrid[: depth_m.shape[0] : stride, : depth_m.shape[1] : stride]
    z = depth_m[::stride, ::stride].astype(np.float64)
    x, y = (column - K[0, 2]) / K[0, 0] * z, (row - K[1, 2]) / K[1, 1] * z
    return np.stack([x, y, z], axis=2)[z > 0], float((depth_m > 0).mean())


def _neighbours(recording: Recording) -> list[tuple[int, int]]:
    """Frames to compare: neighbours if there are few, else of each stretch the first and the next
    from which the camera had moved."""
    count = len(recording)
    if count <= FEW_FRAMES:
        return [(k, k + 1) for k in range(count - 1)]
    starts = np.linspace(0, count - 1, MOST_PAIRS + 1).astype(int)
    pairs = []
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        pose = recording.cam2world(start)
        moved = (k for k in range(start + 1, end) if _apart(pose, recording.cam2world(k)))
        pairs.append((int(start), int(next(moved, end))))
    return pairs


def _apart(pose: np.ndarray, other: np.ndarray) -> bool:
    moved = np.linalg.norm(pose[:3, 3] - other[:3, 3]) >= APART_M
    cosine = (np.trace(pose[:3, :3].T @ other[:3, :3]) - 1) / 2
    return bool(moved or math.acos(min(1.0, max(-1.0, cosine))) >= APART_RAD)
