"""Pictures of a folder by their numbers, and lists of them beside lists of poses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bifusion.errors import InputError
from bifusion.untrusted.files import is_leftover

COLOR_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
DEPTH_ENDINGS = (".png", ".pgm", ".tif", ".tiff", ".npy", ".exr")
"""In the order in which they are looked for, upper case too."""
_NUMBER = re.compile(r"(\d{1,18})(?!.*\d)")
_SECONDS = re.compile(r"(\d{1,12})\.(\d{1,9})$")
"""Maybe a time at the end of a name, as TUM's pictures have (1305031102.175304), maybe a camera and a
number (cam0.10): which of both, a folder's names tell together."""
TIME_DIGITS = 3
"""Behind the point, at least, where all names have the same second."""
_MICROSECONDS = re.compile(r"\d{1,9}-(\d{9,15})")
"""A whole name of Redwood's and SUN3D's: number in its stream and time."""


def numbered(folder: Path, endings: Sequence[str], pattern: str = "*") -> dict[int, Path]:
    """Number in the name → file of `folder`, in the order of numbers; of one name with several endings
    the file with the first of `endings`.

    The number is the name's last run of digits, or, of a time in seconds, the nanoseconds.

    Raises InputError: two names have one number.
    """
    paths = _pictures(folder, endings, pattern)
    are_times = _are_times([path.stem for path in paths])
    return by_number([(_number(path.stem, are_times), path) for path in paths], endings)


def by_number(paths: Sequence[tuple[int, Path]], endings: Sequence[str]) -> dict[int, Path]:
    """Number → file, in the order of numbers, of numbers and files of one folder; like `numbered`."""
    found: dict[int, Path] = {}
    for number, path in paths:
        before = found.get(number)
        if before is not None and before.stem != path.stem:
            raise InputError(
                f"{path.parent}: {before.name} and {path.name} have the same number, {number}: which is "
                "meant by it cannot be told; remove or rename one of them"
            )
        if before is None or endings.index(path.suffix.lower()) < endings.index(before.suffix.lower()):
            found[number] = path
    return dict(sorted(found.items()))


def has_numbered(folder: Path, endings: Sequence[str]) -> bool:
    """Whether `folder` holds anything of what `numbered` takes."""
    return bool(_pictures(folder, endings, "*"))


def _pictures(folder: Path, endings: Sequence[str], pattern: str) -> list[Path]:
    """The files with a number in their name, in the order of names; none where there is no folder."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.glob(pattern))
        if path.suffix.lower() in endings and _NUMBER.search(path.stem) and not is_leftover(path)
    ]


def _number(stem: str, is_time: bool) -> int:
    seconds = _SECONDS.search(stem)
    if is_time and seconds:
        return int(seconds[1]) * 10**9 + int(seconds[2].ljust(9, "0"))
    match = _NUMBER.search(stem)
    assert match is not None
    return int(match[1])


def _are_times(stems: Sequence[str]) -> bool:
    """Whether what looks like seconds in the names is that, and not a camera's number and a picture's.

    Times are written with equally many digits or without zeros at the end; counting leads to 9 and 10.
    """
    seconds = [match for match in map(_SECONDS.search, stems) if match]
    digits = [match[2] for match in seconds]
    lengths = {len(one) for one in digits}
    if not digits or (len(lengths) > 1 and any(one != "0" and one.endswith("0") for one in digits)):
        return False
    return max(lengths) >= TIME_DIGITS or len({match[1] for match in seconds}) > 1


def name_times_s(stems: Sequence[str]) -> np.ndarray | None:
    """(n,) seconds that names carry, as 1305031102.175304 or 0000010-000001228920; None: not all do."""
    found, are_times = [], _are_times(stems)
    for stem in stems:
        if match := _MICROSECONDS.fullmatch(stem):
            found.append(int(match[1]) * 1e-6)
        elif are_times and (match := _SECONDS.search(stem)):
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
