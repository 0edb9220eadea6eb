"""Depth pictures fused into one truncated signed distance, picture by picture.

Curless and Levoy, "A Volumetric Method for Building Complex Models from Range Images", SIGGRAPH 1996:
each voxel near a measured surface keeps the weighted mean of its distances to it, along the camera's z
axis, positive in front. Distances are cut at `TRUNCATION` voxels; what lies farther in front, in blocks
that the picture touches, is known to be free. Nothing is kept of empty space elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bifusion.bounds import PositiveFloat, PositiveInt, check_bounds
from bifusion.datasets.fusion.blocks import REACH, SIDE, VOLUME, BlockTable, block_keys, key_coords
from bifusion.datasets.fusion.picture import Looked, Picture
from bifusion.datasets.recordings.confidence import MEDIUM, share
from bifusion.datasets.recordings.frame import Frame
from bifusion.errors import InputError

TRUNCATION = SIDE // 2
"""Voxels; half a block, so that a surface in a half block touches just the blocks around it."""
SAMPLED_COLUMNS = 160
"""Columns of a depth map that decide which blocks it touches."""
CHUNK_BLOCKS = 128
"""Blocks worked on at once: what a voxel needs then stays in the processor's cache."""
AROUND = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], bool)


@dataclass(frozen=True)
class FusionConfig:
    """How pictures are fused."""

    voxel_size_m: PositiveFloat = 0.02
    nearest_m: PositiveFloat = 0.1
    farthest_m: PositiveFloat = 5.0
    """Depth beyond it is not used: a phone's is a guess there, and a Kinect's off by 4 cm (Nguyen, Izadi
    and Lovell, "Modeling Kinect Sensor Noise", 3DIMPVT 2012)."""
    least_confidence: float = share(MEDIUM)
    """Pixels below it are not used, where the recording says how sure its sensor is; 0 … 1."""
    most_blocks: PositiveInt = 200_000
    """Bounds the memory: 14 kB a block, 2.9 GB, half as much again while storage grows."""


class Volume:
    """The distance, colour and weight of voxels, in blocks that are made where surfaces are.

    Voxel (i, j, k) is the point (i, j, k) · voxel_size_m of the world.
    """

    def __init__(self, config: FusionConfig):
        check_bounds(config, "fusion")
        self.config = config
        self.table = BlockTable(config.most_blocks)
        self.distance = np.zeros((0, VOLUME), np.float32)
        """(capacity, VOLUME) sum of weight · distance / truncation, of −1 … 1."""
        self.weight = np.zeros((0, VOLUME), np.float32)
        self.seen = np.zeros((0, VOLUME), np.uint32)
        """Pictures that measured the voxel."""
        self.color = np.zeros((0, VOLUME, 4), np.float32)
        """Sum of weight · (R, G, B, 1), of pictures that saw a surface within the truncation."""

    @property
    def truncation_m(self) -> float:
        return TRUNCATION * self.config.voxel_size_m

    def add(self, frame: Frame) -> int:
        """Takes in one frame; returns how many blocks its depth touches.

        Raises:
            InputError: no depth, a picture of another size than its camera, too many blocks.
        """
        frame = _usable(frame, self.config)
        keys = self._touched(frame)
        rows = self.table.add(keys)
        self._grow()
        picture = Picture(frame, self.config.voxel_size_m, TRUNCATION)
        corners = key_coords(keys) * SIDE
        for start in range(0, len(rows), CHUNK_BLOCKS):
            part = slice(start, start + CHUNK_BLOCKS)
            self._take_in(picture.look(corners[part]), rows[part])
        return len(rows)

    def _take_in(self, looked: Looked, rows: np.ndarray) -> None:
        block, local = np.divmod(looked.voxel, VOLUME)
        voxel = rows[block] * VOLUME + local
        weight = looked.weight
        self.distance.reshape(-1)[voxel] += weight * looked.distance
        self.weight.reshape(-1)[voxel] += weight
        self.seen.reshape(-1)[voxel] += 1
        colored, weight = voxel[looked.colored], weight[looked.colored, None]
        sums = self.color.reshape(-1, 4)
        sums[colored] += np.concatenate([looked.color * weight, weight], axis=1)

    def _touched(self, frame: Frame) -> np.ndarray:
        """Ascending keys of the blocks within the truncation of a measured point."""
        depth_m, camera = frame.depth_m, frame.depth_camera
        assert depth_m is not None and camera is not None
        step = max(1, depth_m.shape[1] // SAMPLED_COLUMNS)
        sampled = depth_m[::step, ::step]
        row, column = np.nonzero(sampled)
        z = sampled[row, column].astype(np.float64)
        pixel = np.stack([column * step * z, row * step * z, z], axis=1)
        to_world = camera.cam2world[:3, :3] @ np.linalg.inv(camera.K)
        half_blocks = (pixel @ to_world.T + camera.cam2world[:3, 3]) / self.truncation_m
        farthest = np.abs(half_blocks).max(initial=0)
        if farthest >= REACH - 2:
            raise InputError(
                f"{frame.name}: its depth lies {farthest * self.truncation_m:,.0f} m from the origin; "
                "take the offset off the poses first"
            )
        cells = key_coords(np.unique(block_keys(np.floor(half_blocks))))
        low, high = (cells - 1) >> 1, (cells + 1) >> 1
        corners = [np.where(AROUND[n], high, low) for n in range(len(AROUND))]
        return np.unique(block_keys(np.concatenate(corners)))

    def _grow(self) -> None:
        """Storage for all blocks of the table, by doubling."""
        capacity = len(self.weight)
        if len(self.table) <= capacity:
            return
        capacity = max(2 * capacity, len(self.table), 1024)
        for name in ("distance", "weight", "seen", "color"):
            old = getattr(self, name)
            grown = np.zeros((capacity, *old.shape[1:]), old.dtype)
            grown[: len(old)] = old
            setattr(self, name, grown)


def _usable(frame: Frame, config: FusionConfig) -> Frame:
    """The frame with 0 for depth that is out of range, not finite or not sure enough."""
    depth_m, camera = frame.depth_m, frame.depth_camera
    if depth_m is None or camera is None:
        raise InputError(f"{frame.name}: has no depth; fusion needs a depth map with its camera")
    _check_size(f"{frame.name}: its depth map", depth_m, camera.size)
    if frame.confidence is not None:
        _check_size(f"{frame.name}: its confidence map", frame.confidence, camera.size)
    if frame.color is not None and frame.color_camera is not None:
        _check_size(f"{frame.name}: its colour picture", frame.color, frame.color_camera.size)
    with np.errstate(invalid="ignore"):
        use = (depth_m >= config.nearest_m) & (depth_m <= config.farthest_m)
    if frame.confidence is not None:
        use &= frame.confidence >= config.least_confidence
    return replace(frame, depth_m=np.where(use, depth_m, 0).astype(np.float32))


def _check_size(what: str, picture: np.ndarray, size: tuple[int, int]) -> None:
    if picture.shape[:2] != size:
        raise InputError(f"{what} is {picture.shape[:2]}, its camera's {size} (height, width)")
