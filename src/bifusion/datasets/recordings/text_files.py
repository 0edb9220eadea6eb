"""Text and JSON that come with recordings, from strangers: limited in size, any fault an InputError."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from bifusion.errors import InputError
from bifusion.untrusted import files, json_text

MISSING = "missing; the recording needs it"
SEPARATORS = " \t\n,"
MOST_SEPARATORS = 16_000_000
"""An hour of poses at 60 a second has four million words."""
AGAIN = "copy or export it again"
_LAST_ROW = (0.0, 0.0, 0.0, 1.0)
_BRACKETS = str.maketrans("[]", "  ")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


def read_text(path: Path) -> str:
    """The text in `path`. InputError: missing, no file, too large, no text."""
    return files.read_text(path, missing=MISSING)


def read_lines(path: Path) -> list[list[str]]:
    """The words of each line that is neither blank nor a comment (`#`)."""
    lines = (line.strip() for line in _countable(path).splitlines())
    return [line.split() for line in lines if line and not line.startswith("#")]


def read_matrix(path: Path) -> np.ndarray:
    """Numbers of a text file, one row a line; commas between them, numpy's brackets round them and lines
    of comments (`#`) are passed over."""
    text = _countable(path).translate(_BRACKETS)
    lines = [line.split() for line in text.splitlines() if not line.lstrip().startswith("#")]
    if not any(len(line) > 1 and _DECIMAL_COMMA.fullmatch(word) for line in lines for word in line):
        lines = [" ".join(line).replace(",", " ").split() for line in lines]
    return as_numbers([line for line in lines if line], path)


def read_pose(path: Path) -> np.ndarray:
    """(4, 4) of a text file with the 16 numbers of a pose, in four lines or in one, or 12: the last row
    is left out then. InputError: other numbers."""
    return pose_of(read_matrix(path), path)


def pose_of(numbers: np.ndarray, path: Path) -> np.ndarray:
    """(4, 4) of the numbers in `path`, as `read_pose`."""
    if numbers.shape in ((3, 4), (1, 12)):
        numbers = np.concatenate([numbers.ravel(), _LAST_ROW])
    if numbers.size != 16:
        raise InputError(
            f"{path}: the pose has shape {numbers.shape}; expected a 4×4 camera-to-world matrix"
        )
    return numbers.reshape(4, 4)


def _countable(path: Path) -> str:
    """The text in `path`, if it is not so many short words that parting it would fill the memory."""
    text = read_text(path)
    if sum(map(text.count, SEPARATORS)) > MOST_SEPARATORS:
        raise InputError(f"{path}: has more than {MOST_SEPARATORS:,} words; expected a list of poses")
    return text


def as_numbers(rows: list[list[str]], where: Path) -> np.ndarray:
    """(R, C) float64 of rows of words. InputError: no number, or rows of different lengths."""
    try:
        return np.atleast_2d(np.array(rows, float))
    except ValueError as error:
        raise InputError(f"{where}: is no matrix of numbers: {_why_none(rows, error)}") from None


def _why_none(rows: list[list[str]], error: ValueError) -> str:
    comma = next((word for row in rows for word in row if _DECIMAL_COMMA.fullmatch(word)), None)
    if comma is not None:
        return f"it has decimal commas ({comma[:40]}); write numbers with points"
    lengths = sorted({len(row) for row in rows})
    said = str(error) if len(lengths) == 1 else f"its lines have {lengths[0]} to {lengths[-1]} of them"
    return f"{said}; export it again"


def read_json(path: Path, *, finite: bool = True) -> Any:
    """What the JSON in `path` says; not finite: poses may be infinite, such frames are left out."""
    return json_text.read_json(path, missing=MISSING, advice=AGAIN, finite=finite)


def parse_json(text: str, where: Path | str, *, finite: bool = True) -> Any:
    """What JSON says. InputError as `untrusted.json_text.parse_json`."""
    return json_text.parse_json(text, where, advice=AGAIN, finite=finite)


def json_numbers(found: Any, length: int, where: str) -> np.ndarray:
    """(length,) float64 of a list of numbers in JSON."""
    try:
        numbers = np.array(found, float)
    except (ValueError, TypeError, OverflowError):
        numbers = np.zeros(0)
    if numbers.shape != (length,):
        raise InputError(f"{where}: found {str(found)[:80]}; expected {length} numbers")
    return numbers


def inside(folder: Path, name: str, listed_in: Path) -> Path:
    """The file that a list names, which must lie in its folder."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts:
        raise InputError(
            f"{listed_in}: names {name[:120]!r}, which leaves {folder}; expected files in "
            "that folder, by paths relative to it"
        )
    if "\0" in name:
        raise InputError(f"{listed_in}: names {name[:120]!r}, which is no file name")
    return folder / name.replace("\\", "/")


def read_pose_lines(path: Path) -> np.ndarray:
    """(V, 4, 4) of lines with 16 numbers, or 12: the last row is left out then."""
    rows = read_lines(path)
    numbers = as_numbers([row for row in rows if row], path) if rows else np.zeros((0, 16))
    if numbers.shape[1] == 12:
        last = np.broadcast_to(_LAST_ROW, (len(numbers), 4))
        numbers = np.concatenate([numbers, last], axis=1)
    if numbers.shape[1] != 16:
        raise InputError(f"{path}: has {numbers.shape[1]} numbers a line; expected the 16 of a 4×4 pose")
    return numbers.reshape(-1, 4, 4)
