"""Pictures of a folder by their numbers, and lists of them beside lists of poses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bifusion.errors import InputError
from bifusion.untrusted.files import is_leftover

COLOR_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
DEPTH_ENDINGS = (".png", ".pgm", ".tif", ".tiff")
"""In the order in which they are looked for, upper case too."""
_NUMBER = re.compile(r"(\d{1,18})(?!.*\d)")
_SECONDS = re.compile(r"(\d{1,12})\.(\d{1,9})$")
"""A time at the end of a name, as TUM's pictures have: its last run of digits is no number by itself."""
_MICROSECONDS = re.compile(r"\d{1,9}-(\d{9,15})")
"""A whole name of Redwood's and SUN3D's: number in its stream and time."""


def numbered(folder: Path, endings: Sequence[str], pattern: str = "*") -> dict[int, Path]:
    """Number in the name → file of `folder`, in the order of numbers.

    The number is the name's last run of digits, or, of a time in seconds, the nanoseconds.
    """
    if not folder.is_dir():
        return {}
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(pattern)):
        number = _number(path.stem)
        if number is None or path.suffix.lower() not in endings or is_leftover(path):
            continue
        before = found.get(number)
        if before is None or endings.index(path.suffix.lower()) < endings.index(before.suffix.lower()):
            found[number] = path
    return dict(sorted(found.items()))


def _number(stem: str) -> int | None:
    if seconds := _SECONDS.search(stem):
        return int(seconds[1]) * 10**9 + int(seconds[2].ljust(9, "0"))
    match = _NUMBER.search(stem)
    return None if match is None else int(match[1])


def name_times_s(stems: Sequence[str]) -> np.ndarray | None:
    """(n,) seconds that names carry, as 1305031102.175304 or 0000010-000001228920; None: not all do."""
    found = []
    for stem in stems:
        if match := _MICROSECONDS.fullmatch(stem):
            found.append(int(match[1]) * 1e-6)
        elif match := _SECONDS.search(stem):
            found.append(float(f"{match[1]}.{match[2]}"))
        else:
            return None
    return np.array(found)


def first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a folder in `folder`."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def one_pose_each(pictures: Sequence[object], poses: np.ndarray, listed_in: Path) -> None:
    """InputError unless a list has as many poses as there are pictures, which it does not name."""
    if len(pictures) != len(poses):
        raise InputError(
            f"{listed_in}: has {len(poses):,} poses, but there are {len(pictures):,} pictures; the list "
            "does not say which pose is whose: complete the folder, or leave poses without picture out"
        )
