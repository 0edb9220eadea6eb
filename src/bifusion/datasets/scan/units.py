"""In which unit a mesh is: rooms are so large that most units can be told from each other."""

from __future__ import annotations

import numpy as np

from bifusion.datasets.placement import (
    HEIGHTS,
    HIGH_M,
    LARGEST_HIGH_M,
    LARGEST_M,
    LEAST_ROOM_CM,
    LEAST_ROOM_MM,
    SMALLEST_M,
    UNITS,
    is_flat_cm,
)
from bifusion.errors import InputError

SAY = "--scale gives another"
LEAST_GIVEN_M = 0.03
"""Scans may be of less than a room where the user says so."""


def find_scale(coord: np.ndarray, given: float | None, stated: float | None = None) -> tuple[float, str]:
    """Metres a unit of (N, 3) coordinates, whichever axis is up, and a line that says so.

    `given` is the user's, `stated` the file's own.

    Raises InputError: a size that no unit makes a room's, or two do (halls in centimetres, parts of
    rooms in millimetres), nor the given one anything; inches, which tall rooms in centimetres resemble,
    and small ones in metres halls of 30 m and more each way.
    """
    low, high = np.percentile(coord, HEIGHTS, axis=0)
    extent = np.sort(high - low)
    if given is not None and not LEAST_GIVEN_M <= float(extent[2]) * given <= LARGEST_M:
        raise InputError(
            f"the scan is {_metres(extent, given)} by the given scale, {given:g}, which no scan is; "
            "expected metres a unit with --scale, 0.001 for millimetres, no units a metre"
        )
    if given is not None:
        return given, f"{given:g} m a unit, as given: {_metres(extent, given)}"
    if stated is not None and SMALLEST_M <= float(extent[2]) * stated <= LARGEST_M:
        return stated, f"{stated:g} m a unit, as the file says: {_metres(extent, stated)} ({SAY})"
    if stated is not None:
        raise InputError(
            f"the scan is {_metres(extent, stated)} by the unit of its file, which no building is; cut "
            "a room out of it, or give metres a unit with --scale"
        )
    longest, shortest = float(extent[2]), float(extent[0])
    if SMALLEST_M <= longest <= LARGEST_M and shortest <= HIGH_M:
        return 1.0, f"taken to be in metres: {_metres(extent, 1.0)} ({SAY})"
    millimetres, centimetres = UNITS["millimetres"], UNITS["centimetres"]
    if (longest <= LARGEST_M and shortest > LEAST_ROOM_CM) or is_flat_cm(extent):
        return centimetres, f"found to be in centimetres: {_metres(extent, centimetres)} ({SAY})"
    if longest > LARGEST_M and shortest >= LEAST_ROOM_MM and longest * millimetres <= LARGEST_HIGH_M:
        return millimetres, f"found to be in millimetres: {_metres(extent, millimetres)} ({SAY})"
    if LARGEST_M < longest <= LARGEST_HIGH_M / millimetres:
        raise InputError(
            f"the scan is {_numbers(extent)} units large, which is {_metres(extent, millimetres)} "
            f"if it is in millimetres (--scale 0.001), {_metres(extent, centimetres)} if in centimetres "
            "(--scale 0.01); give metres a unit with --scale"
        )
    raise InputError(
        f"the scan is {_numbers(extent)} units large, which is no room in metres, centimetres or "
        "millimetres; give metres a unit with --scale, such as 0.0254 for inches"
    )


def _metres(extent: np.ndarray, scale: float) -> str:
    return f"{_numbers(extent * scale)} m large"


def _numbers(extent: np.ndarray) -> str:
    return " × ".join(f"{length:.3g}" for length in extent[::-1].tolist())
