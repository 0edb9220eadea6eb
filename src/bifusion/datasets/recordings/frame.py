"""What every reader of recordings gives: posed colour and depth pictures, one frame at a time.

Conventions are those of CONVENTIONS.md, whatever the file says: metres, OpenCV cameras, the centre of
the top-left pixel is (0, 0), depth along the camera's z axis, 0 where nothing was measured. Only the
world is the recording's own: which way is up in it, the format says, or nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.recordings.reading import Reading

Z_UP = np.array([0.0, 0.0, 1.0])
Y_UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with its pose."""

    K: np.ndarray
    """(3, 3) float64, pixels of a picture of `size`."""
    size: tuple[int, int]
    """Height, width in pixels."""
    cam2world: np.ndarray
    """(4, 4) float64 rigid transform, camera (x right, y down, z forward) to world, metres."""


@dataclass
class Frame:
    """One moment of a recording. Colour and depth may be of two cameras; either may be missing."""

    name: str
    color: np.ndarray | None = None
    """(H, W, 3) uint8 RGB, upright if the recording says how."""
    color_camera: Camera | None = None
    """The colour picture's; None where there is none."""
    depth_m: np.ndarray | None = None
    """(h, w) float32 metres along the camera's z axis, 0 where nothing was measured."""
    depth_camera: Camera | None = None
    """The depth map's; None where there is none."""
    confidence: np.ndarray | None = None
    """(h, w) float32 in 0 … 1 of the depth map, where the sensor gives it; below 0: never to be used."""
    time_s: float | None = None
    """Seconds, from any beginning."""


@runtime_checkable
class Recording(Protocol):
    """Frames in the order of their time. A picture is decoded when its frame is asked for."""

    name: str
    layout: str
    """Which of the known layouts it has."""
    notes: list[str]
    """What the user should know of how it was understood; grows while frames are read."""
    up: np.ndarray | None
    """(3,) unit vector, the world's up where the format says so; None: unknown."""
    reading: Reading
    """How stored poses became `cam2world`."""
    depth_scale: float
    """Units of the stored depth a metre; 1 where metres are stored."""
    offset_m: np.ndarray
    """(3,) metres taken off all poses, which were far from the origin; mostly zeros."""
    mesh: Mesh | None
    """The surface where the recording comes with it, in its world less `offset_m`; None: to be fused."""
    scales: tuple[float, ...]
    """Units of depth among which the layout leaves the choice, to be judged; mostly empty."""

    def __len__(self) -> int:
        """Number of frames with a pose."""
        ...

    def frame(self, index: int, color: bool = True) -> Frame:
        """Frame `index`, 0 … len − 1; not `color`: depth alone, in much less time.

        Raises InputError: a picture that is missing, cannot be decoded, or has another size than its
        camera; the other frames can still be read.
        """
        ...

    def has_picture(self, index: int) -> bool:
        """Whether frame `index` has a colour picture, without decoding it; else it has depth alone."""
        ...

    def has_confidence(self, index: int) -> bool:
        """Whether frame `index` has a confidence map, without decoding it."""
        ...

    def cam2world(self, index: int, shift: int = 0) -> np.ndarray:
        """(4, 4) float64 pose of the depth camera (the colour camera where there is no depth), without
        decoding a picture; with `shift` by the pose that stands so many rows further on in the
        recording's list, NaN where there is none."""
        ...


@dataclass
class RecordingInfo:
    """What the readers' classes have in common."""

    name: str
    layout: str
    notes: list[str] = field(default_factory=list)
    up: np.ndarray | None = None
    reading: Reading = field(default_factory=Reading)
    depth_scale: float = 1000.0
    offset_m: np.ndarray = field(default_factory=lambda: np.zeros(3))
    scales: tuple[float, ...] = ()
    mesh: Mesh | None = None

    def has_picture(self, index: int) -> bool:
        """Of every frame, where a reader says nothing else."""
        return True

    def has_confidence(self, index: int) -> bool:
        """Of none, where a reader says nothing else."""
        return False
