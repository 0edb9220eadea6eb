"""What can be wrong with the cameras, depth and pictures of views: one table, each row with its undoing.

A row is tried by undoing it: if what is left fits the scan much better than what the files say, the
files have that mistake (`view_agreement.py` for one view, `scan_agreement.py` for those of a scan).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bifusion.data.view_fit import Camera
from bifusion.untrusted.pictures import DEPTH_SCALE

FOCAL_FACTORS = (0.5, 0.67, 0.8, 1.25, 1.5, 2.0)
"""Mistakes of the intrinsics that are tried; one between two of them is found by the nearer."""
SIZE_FACTORS = (2 / 3, 0.75, 0.8, 1.25, 4 / 3, 1.5)
"""Other image sizes that intrinsics are tried to be of; those of half or twice the size are refused."""
SHIFTS = (1, -1, 2, -2, 3, -3)
"""Places by which a list of poses is tried to be shifted."""
DEPTH_UNITS = (1.0, 100.0, 256.0, 1000.0, 4000.0, 5000.0, 6553.5, 10000.0)
"""Units a metre that recorders use: metres, centimetres, KITTI's, millimetres, Matterport's, TUM's,
Replica's as rendered for SLAM, tenths of millimetres."""

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""A frame with z up to one with y up."""


@dataclass(frozen=True)
class Mistake:
    """One way in which views contradict their scan."""

    name: str
    """In words that go on "fits the scan better with …"."""
    undo: Callable[[Camera], Camera]
    """What the files would say without it."""
    remedy: str
    """What to do about it."""
    watched: bool = False
    """Whether training tries it on each view that it loads, besides the scan's check."""


def _world2cam(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Camera], Camera]:
    return lambda camera: replace(camera, world2cam=change(camera.world2cam))


def _pixels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Camera], Camera]:
    return lambda camera: replace(camera, pixels=change(camera.pixels))


def _at_focal(factor: float) -> Callable[[Camera], Camera]:
    return lambda camera: camera.at_focal(factor)


def _at_size(factor: float) -> Callable[[Camera], Camera]:
    def undo(camera: Camera) -> Camera:
        K = camera.K.copy()
        K[:2, :2] *= factor
        K[:2, 2] = (K[:2, 2] + 0.5) * factor - 0.5
        return replace(camera, K=K)

    return undo


def _rolled(quarters: int) -> Callable[[Camera], Camera]:
    """The camera turned about its line of sight, clockwise as it looks: what it sees turns the other
    way round in its pictures."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    turn = np.array([[cos, sin, 0, 0], [-sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    return _world2cam(lambda world2cam: turn @ world2cam)


def _rot90(quarters: int) -> Callable[[Camera], Camera]:
    return _pixels(lambda pixels: np.rot90(pixels, quarters))


POSES = (
    Mistake(
        "its pose inverted", _world2cam(np.linalg.inv),
        "poses look like world-to-camera: store camera-to-world, the inverse of each", watched=True,
    ),
    Mistake(
        "y and z axes turned, as in OpenGL", _world2cam(lambda pose: OPENGL @ pose),
        "poses look like those of OpenGL cameras (y up, z backward): multiply each camera-to-world from "
        "the right by diag(1, -1, -1, 1)", watched=True,
    ),
    Mistake(
        "its pose inverted and y and z axes turned, as in OpenGL",
        _world2cam(lambda pose: OPENGL @ np.linalg.inv(pose)),
        "poses look like world-to-camera of OpenGL cameras: invert each, then multiply it from the "
        "right by diag(1, -1, -1, 1)",
    ),
    Mistake(
        "its pose in a frame with y up", _world2cam(lambda pose: pose @ Y_UP),
        "poses look like those of a frame with y up, the scan has z up: multiply each camera-to-world "
        "from the left by [[1,0,0,0], [0,0,-1,0], [0,1,0,0], [0,0,0,1]]",
    ),
)  # fmt: skip

QUARTERS = ((2, "by 180°"), (1, "by 90° anticlockwise"), (3, "by 90° clockwise"))

TURNED = tuple(
    Mistake(
        f"picture, depth and intrinsics turned {turn}", _rolled(-quarters),
        f"pictures look turned against their poses: turn pictures, depth and intrinsics {turn}, or turn "
        "the poses",
    )
    for quarters, turn in QUARTERS
)  # fmt: skip

DEPTH_MIRRORED = Mistake(
    "the depth map mirrored", _pixels(lambda pixels: pixels[:, ::-1]),
    "depth maps look mirrored: mirror them back, left to right", watched=True,
)  # fmt: skip

DEPTH_MAPS_TURNED = tuple(
    Mistake(
        f"the depth map turned {turn}", _rot90(quarters),
        f"depth maps look turned against their camera: turn them {turn}, as its intrinsics see them",
    )
    for quarters, turn in QUARTERS
)  # fmt: skip

PICTURES_TURNED = (
    Mistake(
        "the image mirrored", _pixels(lambda pixels: pixels[:, ::-1]),
        "pictures look mirrored: mirror them back, left to right", watched=True,
    ),
    Mistake(
        "the image upside down", _pixels(lambda pixels: pixels[::-1]),
        "pictures look mirrored top to bottom: mirror them back", watched=True,
    ),
    Mistake(
        "the image turned by 180°", _pixels(lambda pixels: pixels[::-1, ::-1]),
        "pictures look turned by 180° against their camera: turn them back", watched=True,
    ),
    *(
        Mistake(
            f"the image turned {turn}", _rot90(quarters),
            f"pictures look turned against their camera: turn them {turn}, as its intrinsics see them",
        )
        for quarters, turn in QUARTERS[1:]
    ),
)  # fmt: skip


def _intrinsics(camera: str) -> Iterator[Mistake]:
    for factor in FOCAL_FACTORS:
        yield Mistake(
            f"{factor:g} times the focal length of its {camera} camera", _at_focal(factor),
            f"the {camera} camera's focal length looks wrong, {factor:g} times of it fits: are the "
            "intrinsics those of this camera and image size?", watched=True,
        )  # fmt: skip
    for factor in SIZE_FACTORS:
        yield Mistake(
            f"the intrinsics of its {camera} camera scaled by {factor:.3g}", _at_size(factor),
            f"the {camera} camera's intrinsics look like those of an image {1 / factor:.3g} times as "
            f"large: scale them by {factor:.3g} (cx' = (cx + 0.5)·s − 0.5)",
        )  # fmt: skip


DEPTH_MISTAKES = (
    *POSES[:2], DEPTH_MIRRORED, *_intrinsics("depth"), *POSES[2:], *TURNED, *DEPTH_MAPS_TURNED,
)  # fmt: skip
"""Tried on depth maps. Of those that fit alike the first counts."""
COLOR_MISTAKES = (*PICTURES_TURNED, *_intrinsics("colour"))
"""Tried on pictures, where the depth fits."""


def in_other_units(read_units: float | None, factor: float) -> Mistake:
    """Depth that says `factor` times the distance.

    `read_units`: a metre, with which it was read from the user's files; None: it lies in a scene folder,
    and with how many it came there is not known.
    """
    stored = DEPTH_SCALE if read_units is None else read_units
    right = stored * factor
    known = [units for units in DEPTH_UNITS if abs(np.log(units / right)) < 0.03]
    units = known[0] if known else right
    by = f"{units / stored:.5g}" if known else f"{factor:.3g}"
    remedy = (
        f"divide the stored depth by {by}, or prepare again with {by} times the --depth-scale it was "
        "prepared with"
        if read_units is None
        else f"--depth-scale {units:.5g} would make them agree (read with {read_units:g} units a metre)"
    )
    return Mistake(
        f"depth divided by {factor:.3g}", _pixels(lambda pixels: pixels / np.float32(factor)),
        f"depth images disagree with the scan by a factor {max(factor, 1 / factor):.3g}: they say "
        f"{factor:.3g} times the distance; {remedy}",
    )  # fmt: skip


def shifted(neighbours: Mapping[int, np.ndarray], what: str) -> Iterator[Mistake]:
    """A camera that has the pose of another place in the list.

    Args:
        neighbours: places further on in the list → (4, 4) world2cam there.
        what: is listed, "poses" or "pictures".
    """
    for places, world2cam in neighbours.items():
        yield Mistake(
            f"the pose {abs(places)} {'further on' if places > 0 else 'before'} in the list",
            _world2cam(lambda _, other=world2cam: other),
            f"{what} look shifted: view i fits with the pose of view i {places:+d}; pair them anew",
        )  # fmt: skip
