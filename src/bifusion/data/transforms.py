"""Augmentation of a scene's points. It moves voxels and changes their colours, never pixels.

Pieces are switched by the fields of `AugmentConfig`. Each draws from its own stream, named by run
seed, epoch, scene and piece, so switching one off leaves the others as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy import ndimage

from bifusion.bounds import ASCENDING, NotNegative, PositiveFloat, Share
from bifusion.errors import InputError
from bifusion.rng import numpy_rng

MOST_KNOTS = 2**28
"""Of a grid of noise; their three float32 take 3.2 GB."""


@dataclass
class AugmentConfig:
    """What is varied in training; defaults are OneFormer3D's for ScanNet (its ScanNet config and
    `ElasticTransfrom`, in metres), plus colour jitter and view dropout."""

    enabled: bool = True
    """Vary scenes in training; off: as they are."""
    flip_probability: Share = 0.5
    """Of mirroring x, and independently y."""
    rotation_rad: NotNegative = math.pi
    """Rotation about z, uniform in ± this."""
    tilt_rad: NotNegative = 0.0
    """Rotation about y and then about x, each uniform in ± this."""
    scale: Annotated[tuple[PositiveFloat, PositiveFloat], ASCENDING] = (0.8, 1.2)
    """Range of the factor on all coordinates, drawn uniformly."""
    scale_each_axis: bool = False
    """Draw a scale for each axis instead of one for all."""
    translation_std_m: NotNegative = 0.1
    """Spread of the shift along each axis."""
    subvoxel_shift: bool = True
    """Shift the voxel grid by a uniform share of a voxel along each axis; a translation alone is
    undone where the grid starts at the smallest coordinate."""
    elastic_probability: Share = 0.5
    """Of an elastic distortion."""
    elastic_m: tuple[tuple[PositiveFloat, PositiveFloat], ...] = ((0.12, 0.8), (0.4, 3.2))
    """(granularity, magnitude) of each pass: 6 and 40, then 20 and 160 voxels of 2 cm. The noise is
    smoothed: typical displacements are about a tenth of the magnitude."""
    color_gain_std: NotNegative = 0.05
    """Spread of a factor around 1 on each colour channel."""
    color_offset_std: NotNegative = 0.05
    """Spread of an offset of each colour channel, as a share of 255."""
    brightness_std: NotNegative = 0.0
    """Spread of an offset that the channels share, as a share of 255."""
    color_noise_std: NotNegative = 0.02
    """Spread of the noise of every point, as a share of 255."""
    no_views_probability: Share = 0.1
    """Of a scene shown without any view."""
    fewer_views_probability: Share = 0.3
    """Of a scene shown with a random number of views from 1 to the maximum."""


@dataclass(frozen=True)
class SceneStream:
    """Named random streams of one scene in one epoch."""

    seed: int
    epoch: int
    scene: str

    def rng(self, purpose: str) -> np.random.Generator:
        return numpy_rng(self.seed, "augment", self.epoch, self.scene, purpose)


def augment_coord(coord: np.ndarray, config: AugmentConfig, stream: SceneStream) -> np.ndarray:
    """Scale, rotation about z, flips, tilt and translation of (N, 3) points in metres; float32."""
    matrix = flip(config, stream.rng("flip")) @ rotation_about_z(config, stream.rng("rotation"))
    if config.tilt_rad:
        matrix = tilt(config, stream.rng("tilt")) @ matrix
    matrix *= stream.rng("scale").uniform(*config.scale, size=3 if config.scale_each_axis else 1)
    shift = stream.rng("translation").normal(0, config.translation_std_m, 3)
    return (coord @ matrix.T + shift).astype(np.float32)


def flip(config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) mirroring of x and y, each with its probability."""
    mirrored = rng.uniform(size=2) < config.flip_probability
    return np.diag([*np.where(mirrored, -1.0, 1.0), 1.0])


def rotation_about_z(config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) rotation by an angle uniform in ± `rotation_rad`."""
    angle = rng.uniform(-config.rotation_rad, config.rotation_rad)
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def tilt(config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) rotation about y, then about x, by angles uniform in ± `tilt_rad`."""
    about_x, about_y = rng.uniform(-config.tilt_rad, config.tilt_rad, size=2)
    c, s = math.cos(about_y), math.sin(about_y)
    lean = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    c, s = math.cos(about_x), math.sin(about_x)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]) @ lean


def elastic_distortion(coord: np.ndarray, config: AugmentConfig, stream: SceneStream) -> np.ndarray:
    """Smooth random displacement of (N, 3) points, with its probability; float32."""
    rng = stream.rng("elastic")
    if rng.uniform() >= config.elastic_probability:
        return coord
    for granularity_m, magnitude_m in config.elastic_m:
        coord = coord + magnitude_m * smooth_noise(coord, granularity_m, rng).astype(np.float32)
    return coord


def smooth_noise(coord: np.ndarray, granularity_m: float, rng: np.random.Generator) -> np.ndarray:
    """(N, 3) noise, trilinear between knots 2·granularity apart of twice box-blurred white noise.

    As OneFormer3D's `ElasticTransfrom` (from PointGroup), on a grid that starts at the scene's
    smallest coordinate rather than lying symmetrically about the origin. Raises InputError for points so
    far apart that the grid would take gigabytes.
    """
    margin = 2  # the blur reaches two knots far, and takes the outside as zero
    low = coord.min(axis=0)
    position = (coord - low) / (2 * granularity_m) + margin
    shape = np.ceil(position.max(axis=0)).astype(int) + margin + 1
    if math.prod(shape.tolist()) > MOST_KNOTS:
        span = " × ".join(f"{length:.0f}" for length in coord.max(axis=0) - low)
        raise InputError(
            f"coord: found points over {span} m, too many knots ({math.prod(shape.tolist()):,}, at most "
            f"{MOST_KNOTS:,}) for an elastic distortion of {granularity_m:g} m; take stray points out, "
            "divide the scene, or leave the distortion out: --data.augment.elastic-probability 0"
        )
    noise = rng.standard_normal((3, *shape), dtype=np.float32)
    for _ in range(2):
        for axis in (1, 2, 3):
            noise = ndimage.uniform_filter1d(noise, 3, axis=axis, mode="constant")
    return np.stack(
        [ndimage.map_coordinates(channel, position.T, order=1, prefilter=False) for channel in noise],
        axis=1,
    )


def subvoxel_shift_m(config: AugmentConfig, voxel_size_m: float, stream: SceneStream) -> np.ndarray:
    """(3,) float32 shift of the voxel grid in [0, voxel size)."""
    if not config.subvoxel_shift:
        return np.zeros(3, np.float32)
    return (stream.rng("subvoxel").uniform(size=3) * voxel_size_m).astype(np.float32)


def jitter_color(color: np.ndarray, config: AugmentConfig, stream: SceneStream) -> np.ndarray:
    """(N, 3) colours of 0 … 255 with gain, offset and noise, float32, kept within 0 … 255."""
    rng = stream.rng("color")
    gain = rng.normal(1, config.color_gain_std, 3).astype(np.float32)
    offset = rng.normal(0, 255 * config.color_offset_std, 3).astype(np.float32)
    jittered = color.astype(np.float32) * gain + offset
    if config.brightness_std:
        jittered += np.float32(stream.rng("brightness").normal(0, 255 * config.brightness_std))
    if config.color_noise_std:
        noise = rng.standard_normal(color.shape, dtype=np.float32)
        jittered += np.float32(255 * config.color_noise_std) * noise
    return np.clip(jittered, 0, 255)


def choose_views(
    names: list[str], max_views: int, config: AugmentConfig | None, stream: SceneStream
) -> list[str]:
    """At most `max_views` of the views `names`, in their order.

    Without augmentation (`config` None) they are spread evenly over the recording. With it a random
    choice, sometimes of fewer, sometimes of none (view dropout).
    """
    count = min(max_views, len(names))
    if count == 0:
        return []
    if config is None:
        return [names[int((i + 0.5) * len(names) / count)] for i in range(count)]
    rng = stream.rng("views")
    none, fewer = rng.uniform(size=2) < (config.no_views_probability, config.fewer_views_probability)
    if none:
        return []
    if fewer:
        count = int(rng.integers(1, count + 1))
    chosen = rng.choice(len(names), size=count, replace=False)
    return [names[i] for i in np.sort(chosen)]
