"""Pinhole matrices as they come with recordings, and as users give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.data.checks import check_intrinsics
from bifusion.data.images import is_resized, resize_intrinsics
from bifusion.data.view_files import check_turned
from bifusion.datasets.recordings.text_files import json_numbers, read_json, read_matrix
from bifusion.errors import InputError

MOST_PIXELS = 100_000
"""Of a picture's side."""
NAMES = (
    "camera-intrinsics.txt", "intrinsics.txt", "intrinsic.txt", "K.txt", "calibration.txt",
    "intrinsic.json", "camera_intrinsic.json", "intrinsics.json", "camera.json",
    "camera_primesense.json", "cam_params.json",
)  # fmt: skip
PINHOLE = ("fx", "fy", "cx", "cy")
SIZES = (("width", "height"), ("w", "h"))
FORMS = (
    "fx fy cx cy, a 3×3 or 4×4 matrix in a text file, Open3D's intrinsic.json or one with fx, fy, cx, "
    "cy, or fx fy cx cy with the width and height they are for; in pixels whose top-left centre is "
    "(0, 0)"
)
Size = tuple[int, int]
"""Width, height in pixels."""


@dataclass(frozen=True)
class Calibration:
    """A camera of a recording, the same in all its frames."""

    K: np.ndarray
    """(3, 3) pinhole matrix."""
    size: tuple[int, int] | None = None
    """Width, height of the pictures it is for; None: of the pictures as they are."""
    extrinsic: np.ndarray = field(default_factory=lambda: np.eye(4))
    """(4, 4) this camera to the frame that poses speak of; nearly always the identity."""

    def fitted(self, size: tuple[int, int], where: str | Path) -> np.ndarray:
        """(3, 3) for pictures of `size` (width, height), which may be the camera's, resized."""
        K = self.K
        if self.size is not None and self.size != size:
            if not is_resized(size, self.size):
                raise InputError(
                    f"{where}: is {size[0]}×{size[1]} pixels, its camera has {self.size[0]}×"
                    f"{self.size[1]}: one is not the other resized; give --intrinsics for this size"
                )
            K = resize_intrinsics(K, self.size, size)
        return check_intrinsics(K, size, where)

    def check_turned(self, size: tuple[int, int], path: Path, tag: int) -> None:
        """InputError if this is the camera of a picture that its orientation tag `tag` turned to `size`
        (width, height), as it was before."""
        K = self.K
        if self.size is not None:
            factor = max(size) / max(self.size)
            resized = round(self.size[0] * factor), round(self.size[1] * factor)
            K = resize_intrinsics(K, self.size, resized)
        check_turned(path, tag, K, size)


def pinhole(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """(3, 3) pinhole matrix."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def picture_size(width: float, height: float, where: str) -> tuple[int, int]:
    """The size of pictures that a camera is for, in pixels. InputError: less than one, not finite, more
    than any camera's."""
    if not (1 <= width <= MOST_PIXELS and 1 <= height <= MOST_PIXELS):
        raise InputError(f"{where}: found {width:g}, {height:g}; expected pixels, 1 to {MOST_PIXELS:,}")
    return int(width), int(height)


def given_intrinsics(given: Path | str | Sequence[float] | np.ndarray) -> Calibration:
    """What a user gave: numbers, a matrix, or a file (FORMS)."""
    if isinstance(given, str | Path):
        words = str(given).replace(",", " ").split()
        if Path(given).is_file():
            return read_calibration(Path(given))
        if len(words) not in (4, 6):
            raise InputError(f"intrinsics: {str(given)!r} is no file; expected {FORMS}")
        try:
            given = [float(word) for word in words]
        except ValueError:
            raise InputError(f"intrinsics: found {given!r}; expected {FORMS}") from None
    return _calibration(np.asarray(given, float), "intrinsics")


def of_one_size(camera: Calibration, color: Size, depth: Size, where: str) -> tuple[Calibration, str]:
    """`camera`, of colour and of depth, with the one of their two sizes in whose middle its principal
    point lies, as nobody says which it is for; and a note.

    Raises InputError: one size is not the other resized; it may be of both, or is of neither.
    """
    sizes = f"colour is {color[0]}×{color[1]} pixels, depth {depth[0]}×{depth[1]}"
    if not is_resized(depth, color):
        raise InputError(
            f"{where}: {sizes}: one is not the other resized, and in this layout depth is registered to "
            "colour; register it (and crop neither), then export the recording again"
        )
    fits = [size for size in (color, depth) if _is_of(camera.K, size)]
    if len(fits) != 1:
        (fx, cx), (fy, cy) = (camera.K[axis, [axis, 2]] for axis in (0, 1))
        found = f"{fx:g} {fy:g} {cx:g} {cy:g}"
        raise InputError(
            f"{where}: {sizes}, and the intrinsics {found} may be of {'either' if fits else 'neither'}; "
            f"give --intrinsics with the width and height they are for: '{found} {color[0]} {color[1]}'"
        )
    width, height = fits[0]
    note = f"{sizes}: one is taken as the other resized, intrinsics as those of {width}×{height}"
    return replace(camera, size=fits[0]), note


def _is_of(K: np.ndarray, size: Size) -> bool:
    """Whether it can be the camera of pictures of that size."""
    try:
        check_intrinsics(K, size, "")
    except InputError:
        return False
    return True


def find_intrinsics(folder: Path) -> Calibration | None:
    """The camera in the first of the files NAMES that `folder` has; None if it has none."""
    found = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    return None if found is None else read_calibration(found)


def read_calibration(path: Path) -> Calibration:
    """A camera from a file: numbers, or JSON (`json_camera`)."""
    if path.suffix.lower() == ".json":
        return json_camera(read_json(path), str(path))
    return _calibration(read_matrix(path), str(path))


def open3d_camera(found: Any, where: str) -> Calibration:
    """A camera of Open3D's JSON, whose matrix stands column by column."""
    if not isinstance(found, dict) or "intrinsic_matrix" not in found:
        raise InputError(f"{where}: has no intrinsic_matrix; expected {FORMS}")
    K = json_numbers(found["intrinsic_matrix"], 9, f"{where}: intrinsic_matrix").reshape(3, 3).T
    width, height = json_numbers([found.get("width"), found.get("height")], 2, f"{where}: width, height")
    return Calibration(_matrix(K, where), picture_size(width, height, f"{where}: width, height"))


def json_camera(found: Any, where: str) -> Calibration:
    """A camera of JSON: Open3D's, or fx, fy, cx, cy, maybe with the size they are for, maybe within
    "camera", as NICE-SLAM's cam_params.json has them."""
    inner = found.get("camera", found) if isinstance(found, dict) else found
    if not isinstance(inner, dict) or any(key not in inner for key in PINHOLE):
        return open3d_camera(found, where)
    numbers = json_numbers([inner[key] for key in PINHOLE], 4, f"{where}: {', '.join(PINHOLE)}")
    size = next((keys for keys in SIZES if all(key in inner for key in keys)), None)
    if size is None:
        return Calibration(_matrix(numbers, where))
    width, height = json_numbers([inner[key] for key in size], 2, f"{where}: {', '.join(size)}")
    return Calibration(
        _matrix(numbers, where), picture_size(width, height, f"{where}: {', '.join(size)}")
    )


def _calibration(found: np.ndarray, where: str) -> Calibration:
    if found.size == 6 and max(found.shape) == 6:
        *camera, width, height = found.ravel().tolist()
        size = picture_size(width, height, f"{where}: width, height")
        return Calibration(_matrix(np.array(camera), where), size)
    return Calibration(_matrix(found, where))


def _matrix(found: np.ndarray, where: str) -> np.ndarray:
    if found.size == 4:
        found = pinhole(*found.ravel())
    elif found.size in (9, 12, 16) and min(found.shape) == 1:
        found = found.reshape(4 if found.size == 16 else 3, -1)
    if found.shape == (3, 4) and not found[:, 3].any():  # a projection, of a camera that is not moved
        found = found[:, :3]
    if found.shape not in ((3, 3), (4, 4)):
        raise InputError(f"{where}: the intrinsics have shape {found.shape}; expected {FORMS}")
    K = np.array(found[:3, :3])
    if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise InputError(f"{where}: found {K.tolist()}; expected finite, positive focal lengths")
    return K
