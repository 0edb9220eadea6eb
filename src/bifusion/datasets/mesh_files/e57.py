"""E57 clouds of laser scanners, read with pye57 (extra `laser`).

Source: ASTM E2807-11: metres; several scans a file, each with its pose in the file's frame; points that
are marked invalid are none. By custom z is up. Colours are of any type, up to a limit that the scan's
header may state (`colorLimits`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.ply.placed import placed
from bifusion.errors import InputError, first_line
from bifusion.wording import plural

UP = np.array([0.0, 0.0, 1.0])
MOST_POINTS = 200_000_000
POINTS_A_BYTE = 8
"""Even a point of one bit takes an eighth of a byte."""
COLORS = ("colorRed", "colorGreen", "colorBlue")
AXES = ("cartesianX", "cartesianY", "cartesianZ")
SPHERE = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
INVALID = ("cartesianInvalidState", "sphericalInvalidState")
SLIGHTLY_MORE = 1e-3
"""By how much colours of 0 … 1 may exceed 1, from rounding."""
UNIT_TOLERANCE = 0.01
"""Largest |1 − norm| of a scan's quaternion."""


def read_e57(path: Path) -> Mesh:
    """The coloured points of all scans in `path`, one after another, in the file's frame.

    Raises InputError: no pye57, damaged, more points than it has bytes for, no colours.
    """
    pye57 = _pye57(path)
    try:
        file = pye57.E57(str(path))
        try:
            parts, bare, invalid = _scans(path, file)
        finally:
            file.close()
    except InputError:
        raise
    except (
        pye57.libe57.E57Exception, ValueError, RuntimeError, KeyError, IndexError, TypeError,
        AttributeError, OverflowError, OSError, MemoryError,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: cannot be read as E57 ({first_line(error)}); copy it again") from None
    if not parts:
        lack = "no colours, which the networks need" if bare else "no points"
        raise InputError(f"{path}: its scans have {lack}; export them with colours")
    coord = np.concatenate([coord for coord, _ in parts])
    color = np.concatenate([color for _, color in parts])
    count = len(parts) + bare
    notes = [f"{bare} of {count} scans without colours left out"] if bare else []
    notes += [f"{len(parts)} scans, placed by their poses"] if len(parts) > 1 else []
    if invalid:
        notes.append(f"{plural(invalid, 'point')} marked invalid left out; labels are of the others")
    there = placed(coord, path, notes)
    coord = there.vertices(coord)
    return Mesh(
        coord, there.vertices(color), np.zeros((0, 3), np.int64),
        spacing=float(np.spacing(np.abs(coord).max())), up=UP, notes=notes, unit_m=1.0,
    )  # fmt: skip


def _pye57(path: Path) -> Any:
    try:
        import pye57
    except ImportError:
        raise InputError(
            f"{path}: E57 files need the package pye57: pip install 'bifusion[laser]'"
        ) from None
    return pye57


def _scans(path: Path, file: Any) -> tuple[list[tuple[np.ndarray, np.ndarray]], int, int]:
    """(n, 3) float64 points and (n, 3) uint8 colours of each coloured scan, how many others, and how
    many points of the former are marked invalid."""
    parts, bare, invalid, left = [], 0, 0, min(MOST_POINTS, POINTS_A_BYTE * path.stat().st_size)
    for index in range(file.scan_count):
        header = file.get_header(index)
        left -= header.point_count
        if header.point_count < 0 or left < 0:
            raise InputError(
                f"{path}: scan {index} says it has {header.point_count:,} points, more than there is "
                "room for; copy it again"
            )
        if header.has_pose() and abs(np.linalg.norm(header.rotation) - 1) > UNIT_TOLERANCE:
            raise InputError(f"{path}: the pose of scan {index} is no rotation; export it again")
        if not set(COLORS) <= set(header.point_fields):
            bare += header.point_count > 0
            continue
        if not any(set(axes) <= set(header.point_fields) for axes in (AXES, SPHERE)):
            raise InputError(f"{path}: the points of scan {index} have no place; export it again")
        found = file.read_scan(index, ignore_missing_fields=True)
        coord = np.stack([found[axis] for axis in AXES], axis=1).astype(np.float64)
        invalid += header.point_count - len(coord)
        if len(coord):
            parts.append((coord, _eight_bits(_stored_colors(path, file, header), _limit(header), path)))
    return parts, bare, invalid


def _stored_colors(path: Path, file: Any, header: Any) -> np.ndarray:
    """(n, 3) float32 of the valid points. pye57 itself takes any colour for one of 8 bits."""
    kind = SPHERE if not set(AXES) <= set(header.point_fields) else AXES
    invalid = INVALID[kind == SPHERE]
    libe57 = _pye57(path).libe57
    stored, buffers = {}, libe57.VectorSourceDestBuffer()
    for name in (*COLORS, *({invalid} & set(header.point_fields))):
        stored[name] = np.zeros(header.point_count, np.float32)
        buffers.append(
            libe57.SourceDestBuffer(file.image_file, name, stored[name], len(stored[name]), True, True)
        )
    header.points.reader(buffers).read()
    color = np.stack([stored[name] for name in COLORS], axis=1)
    return color[stored[invalid] == 0] if invalid in stored else color


def _limit(header: Any) -> float | None:
    """The largest value that a colour can have, where the scan says so."""
    if not header.node.isDefined("colorLimits"):
        return None
    limits = header.node["colorLimits"]
    names = [name for name in (f"{color}Maximum" for color in COLORS) if limits.isDefined(name)]
    return max((float(limits[name].value()) for name in names), default=None)


def _eight_bits(color: np.ndarray, limit: float | None, path: Path) -> np.ndarray:
    """(n, 3) uint8 of colours of 0 … 1, or of as many bits as the limit, or else the largest, takes."""
    most = float(color.max(initial=0))
    top = most if limit is None or not 0 < limit < 2**32 else max(limit, most)
    if not np.isfinite(color).all() or color.min(initial=0) < 0 or top >= 2**32:
        raise InputError(f"{path}: has colours that are negative or not finite; export it again")
    if top <= 1 + SLIGHTLY_MORE:
        factor = 255.0
    else:
        factor = 255 / (2 ** max(8, int(np.ceil(np.log2(top + 1)))) - 1)
    return np.clip(np.rint(color * np.float32(factor)), 0, 255).astype(np.uint8)
