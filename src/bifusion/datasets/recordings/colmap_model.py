"""Cameras and posed pictures of a COLMAP model, text or binary.

Source: COLMAP's documentation, "Output Format", and its scripts/python/read_write_model.py. Poses are
world2cam of OpenCV cameras, quaternions with the scalar first; the centre of the first pixel is at (0.5,
0.5). The 2D points of pictures are stepped over.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from bifusion.data.checks import check_intrinsics
from bifusion.datasets.recordings.intrinsics import picture_size, pinhole
from bifusion.datasets.recordings.lens import check_lens
from bifusion.datasets.recordings.poses import from_quaternions
from bifusion.errors import InputError

MODELS = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8), ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4),
    ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12),
)  # fmt: skip
"""Name and number of parameters by the number that binary files have for it."""
MOST_MODELS = 64
"""Later versions of COLMAP may have so many."""
KNOWN = dict(MODELS[:5])
"""Those whose lens is a polynomial of few terms, which is measured."""
Found = TypeVar("Found")
MOST_NAME, MOST_LINE = 4096, 1 << 26
CORNER = 0.5


@dataclass(frozen=True)
class Lens:
    """A camera, perhaps of many pictures."""

    K: np.ndarray
    size: tuple[int, int]
    """Width, height."""
    note: str | None
    """On a distortion that is small."""


@dataclass(frozen=True)
class Posed:
    """A picture."""

    name: str
    camera: int
    pose: list[float]
    """qw qx qy qz tx ty tz of world2cam."""

    def world2cam(self) -> np.ndarray:
        """(4, 4), NaN for no rotation."""
        numbers = np.array([self.pose])
        return from_quaternions(numbers[:, [1, 2, 3, 0]], numbers[:, 4:])[0]


def has_model(folder: Path) -> bool:
    """Whether both files of a model are in a folder."""
    endings = (".bin", ".txt")
    return any(
        all((folder / f"{name}{end}").is_file() for name in ("cameras", "images")) for end in endings
    )


def read_model(folder: Path) -> tuple[dict[int, Lens], list[Posed]]:
    """Lenses by their number, and the pictures that were registered.

    Raises InputError: damaged files, a lens that distorts much or is of a kind that is not known.
    """
    binary = (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file()
    ending = ".bin" if binary else ".txt"
    cameras, images = (folder / f"{name}{ending}" for name in ("cameras", "images"))
    read_lenses = _lenses_binary if binary else _lenses_text
    read_images = _images_binary if binary else _images_text
    lenses = _read(cameras, lambda file: dict(read_lenses(file, cameras)))
    posed = _read(images, lambda file: list(read_images(file)))
    lost = next((one for one in posed if one.camera not in lenses), None)
    if lost is not None:
        raise InputError(f"{images}: {lost.name} has camera {lost.camera}, which {cameras.name} has not")
    return lenses, sorted(posed, key=lambda one: one.name)


def _read(path: Path, read: Callable[[BinaryIO], Found]) -> Found:
    try:
        with open(path, "rb") as file:
            return read(file)
    except (struct.error, ValueError, IndexError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is damaged or no COLMAP model ({error}); copy it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); copy it again") from None


def _lens(model: str, size: tuple[int, int], numbers: list[float], where: str) -> Lens:
    if model not in KNOWN:
        raise InputError(
            f"{where}: its lens is {model[:40]}, which is not undone here; undistort the pictures first "
            "(COLMAP's image_undistorter)"
        )
    if len(numbers) != KNOWN[model]:
        raise InputError(f"{where}: {model} has {len(numbers)} numbers; expected {KNOWN[model]}")
    focal = 1 if model.startswith("SIMPLE") or model == "RADIAL" else 2
    fx, fy = numbers[0], numbers[focal - 1]
    cx, cy, *bends = numbers[focal:]
    size = picture_size(*size, where)
    K = check_intrinsics(pinhole(fx, fy, cx - CORNER, cy - CORNER), size, where)
    bends += [0.0] * (4 - len(bends))
    return Lens(K, size, check_lens(K, size, bends, where))


def _lenses_text(file: BinaryIO, path: Path) -> Iterator[tuple[int, Lens]]:
    for line in file.read(MOST_LINE).decode("utf-8-sig").splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            size = (int(words[2]), int(words[3]))
            where = f"{path}: camera {words[0][:20]}"
            yield int(words[0]), _lens(words[1], size, [float(word) for word in words[4:]], where)


def _lenses_binary(file: BinaryIO, path: Path) -> Iterator[tuple[int, Lens]]:
    for _ in range(_unpack(file, "<Q")[0]):
        number, model, width, height = _unpack(file, "<iiQQ")
        if not 0 <= model < len(MODELS):
            if 0 <= model < MOST_MODELS:
                raise InputError(
                    f"{path}: camera {number}: its lens is number {model}, of a later COLMAP than is "
                    "known here; undistort the pictures first (COLMAP's image_undistorter)"
                )
            raise ValueError(f"camera model {model} is not known")
        name, count = MODELS[model]
        numbers = list(_unpack(file, f"<{count}d"))
        yield number, _lens(name, (width, height), numbers, f"{path}: camera {number}")


def _images_text(file: BinaryIO) -> Iterator[Posed]:
    while line := file.readline(MOST_LINE):
        words = line.decode("utf-8-sig").split(maxsplit=9)
        if words and not words[0].startswith("#"):
            yield Posed(words[9].strip(), int(words[8]), [float(word) for word in words[1:8]])
            place = file.tell()  # its 2D points follow, of which there may be none
            if _is_picture(file.readline(MOST_LINE)):
                file.seek(place)


def _is_picture(line: bytes) -> bool:
    """Whether a line is a picture's where its predecessor's points belong: some programs leave out the
    lines of no points. Points are numbers alone, and of a picture's line the last word is a name."""
    words = line.decode("utf-8-sig").split(maxsplit=9)
    if len(words) < 10:
        return False
    try:
        float(words[9].split(maxsplit=1)[0])
    except ValueError:
        return True
    return False


def _images_binary(file: BinaryIO) -> Iterator[Posed]:
    for _ in range(_unpack(file, "<Q")[0]):
        _, *pose, camera = _unpack(file, "<i7di")
        yield Posed(_name(file), camera, pose)
        file.seek(24 * _unpack(file, "<Q")[0], 1)


def _name(file: BinaryIO) -> str:
    """Up to the zero that ends it."""
    at = file.tell()
    name, zero, _ = file.read(MOST_NAME).partition(b"\0")
    if not zero:
        raise ValueError("a picture's name has no end")
    file.seek(at + len(name) + 1)
    return name.decode()


def _unpack(file: BinaryIO, layout: str) -> tuple:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
