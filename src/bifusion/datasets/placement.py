"""From the frame and unit of a scan's files to those of its scene: scale, alignment, offset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

FAR_M = 1000.0
"""Scans beyond it lose their offset before they become float32, whose step there is 0.06 mm."""
COARSE_M = 1e-3
"""Largest step of the stored numbers that is not worth a word."""
UNITS = {"millimetres": 0.001, "centimetres": 0.01, "inches": 0.0254, "feet": 0.3048}
LARGEST_M, LARGEST_HIGH_M, HIGH_M = 1000.0, 100.0, 30.0
"""No building is a kilometre long; a floor may be 100 m long, but then no 30 m high."""
SMALLEST_M = 0.3
LEAST_ROOM_CM = 140.0
"""A room is higher than so many centimetres, and lower than so many inches."""
LEAST_ROOM_MM = 1400.0
"""What has a shorter side is no room in millimetres."""
LONGEST_CM = 10_000.0
FLAT_HIGH_CM, FLAT_WIDE_CM = (200.0, 400.0), 2000.0
"""Of flats, longer than LARGEST_M in centimetres: the shortest side is the height of a storey, and the
next is too short to be that of a wall or a floor in millimetres, of which parts of rooms are scanned."""
HALL_M = (6.0, 14.0)
"""Heights of halls; rooms of 2 to 4 m have them in feet."""
HEIGHTS = (0.5, 99.5)
"""Percentiles between which a scan is high, whatever stray points it has."""
STRAY = 3.0
"""Points are strays that lie so many sizes of the scan beyond it: what is seen through a window or in a
mirror is nearer, as is most of a mesh whose furniture has nearly all the vertices."""


@dataclass(frozen=True)
class Placement:
    """How points and poses of the files come into the scene: scaled, aligned, less the offset."""

    scale: float = 1.0
    """Metres a unit of length of the files."""
    alignment: np.ndarray = field(default_factory=lambda: np.eye(4))
    """(4, 4) rigid, its translation in the files' unit."""
    offset_m: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """(3,) metres, taken off last."""

    @property
    def aligned(self) -> np.ndarray:
        """(4, 4) the alignment in metres, without the offset."""
        return self._metres(self.alignment)

    def points(self, coord: np.ndarray) -> np.ndarray:
        """(N, 3) float64 metres in the scene's frame."""
        aligned = self.aligned
        scaled = coord.astype(np.float64) * self.scale
        return scaled @ aligned[:3, :3].T + aligned[:3, 3] - self.offset_m

    def pose(self, cam2world: np.ndarray) -> np.ndarray:
        """(4, 4) camera to the scene's frame, of a pose in the files' frame."""
        placed = self.aligned @ self._metres(cam2world)
        placed[:3, 3] -= self.offset_m
        return placed

    def _metres(self, transform: np.ndarray) -> np.ndarray:
        scaled = transform.astype(np.float64)
        scaled[:3, 3] *= self.scale
        return scaled


AXES = ("z", "y", "x", "-z", "-y", "-x")
Up = Literal["z", "y", "x", "-z", "-y", "-x"]
"""Which axis of a file points up."""
_ROTATIONS = {
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "y": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "x": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "-z": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "-y": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "-x": ((0, -1, 0), (0, 0, 1), (-1, 0, 0)),
}
LEVEL = 0.9
"""Least cosine between a normal and an axis of a surface that is square to it."""
CLEARLY = 1.5


def up_to_z(up: Up) -> np.ndarray:
    """(4, 4) rotation that brings the axis that points up to z."""
    rotation = np.eye(4)
    rotation[:3, :3] = _ROTATIONS[up]
    return rotation


def axis_of(up: np.ndarray) -> Up:
    """The axis that a (3,) unit vector along one of them is."""
    number = int(np.abs(up).argmax())
    return AXES[2 - number + 3 * bool(up[number] < 0)]


def level_note(coord: np.ndarray, faces: np.ndarray) -> str | None:
    """What to say of a mesh with z up, coordinates (N, 3) and faces (F, 3), in which much more surface
    is square to y than to z, as floor and ceiling are to what points up; None where that is not so."""
    corner = coord[faces_of_scan(coord, faces)]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    area = np.linalg.norm(normal, axis=1)
    square = np.abs(normal) > LEVEL * np.maximum(area, 1e-30)[:, None]
    _, along_y, along_z = (area[:, None] * square).sum(axis=0)
    if along_y <= CLEARLY * along_z or along_y < 0.1 * area.sum():
        return None
    return (
        f"{along_y / area.sum():.0%} of the surface is square to y and {along_z / area.sum():.0%} to z, "
        "which was taken to point up: --up y, if y does"
    )


def stray_points(coord: np.ndarray) -> np.ndarray:
    """(N,) whether a point of (N, 3), in any unit, is one of a few that lie far beyond all others."""
    low, high = np.percentile(coord, HEIGHTS, axis=0)
    margin = STRAY * (high - low).max()
    return ((coord < low - margin) | (coord > high + margin)).any(axis=1)


def faces_of_scan(coord: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Those of (F, 3) faces that end at no stray point: a single one, far enough away, spans more area
    than a room has. All of them, if none other is there."""
    kept = faces[~stray_points(coord)[faces].any(axis=1)]
    return kept if len(kept) else faces


def stray_note(coord: np.ndarray) -> str | None:
    """What to say of stray points, which no unit and no upright is judged by; None: there are none."""
    stray = stray_points(coord)
    count = int(stray.sum())
    if not count:
        return None
    first = int(stray.argmax())
    x, y, z = coord[first].tolist()
    lie = "lies" if count == 1 else "lie"
    return (
        f"{count:,} of {len(coord):,} points {lie} far from the rest (first: "
        f"point {first} at {x:.6g}, {y:.6g}, {z:.6g}); if they are no part of the scan, take them out"
    )


def far_offset(coord_m: np.ndarray) -> np.ndarray:
    """(3,) whole metres to take off coordinates as map projections have, whatever stray points there
    are; zeros where the others are near."""
    kept = coord_m[~stray_points(coord_m)]
    low, high = kept.min(axis=0), kept.max(axis=0)
    centre = (low + high) / 2
    distance = np.abs(centre).max()
    far = distance > FAR_M and distance > (high - low).max()  # not only large, as in millimetres
    return np.round(centre) if far else np.zeros(3)


def placement_notes(
    placement: Placement,
    coord_m: np.ndarray,
    spacing_m: float,
    remedy: Callable[[float], str] | None = None,
    *,
    stated: bool = False,
) -> list[str]:
    """What is worth a word: an offset taken off, a step of the stored numbers that is coarse, an
    extent that no indoor scan has. `remedy`: words for what scales it by a factor; None: --scale.
    `stated`: its file or its user says its unit, so that a large scan is in no other."""
    notes = []
    if placement.offset_m.any():
        x, y, z = placement.offset_m
        notes.append(
            f"coordinates are far from the origin: offset ({x:.0f}, {y:.0f}, {z:.0f}) m taken off, kept "
            "in scene.json and added again to what predict writes"
        )
    if spacing_m > COARSE_M:
        notes.append(
            f"the file's numbers have steps of {spacing_m:.2g} m, and its points with them; export it "
            "with double coordinates or nearer to the origin (LAS: with a smaller scale)"
        )
    remedy = remedy or (lambda factor: f"--scale {placement.scale * factor:g}")
    extent = size_note(coord_m, remedy, stated=stated)
    return notes + [note for note in (stray_note(coord_m), extent) if note]


def extent_of(coord_m: np.ndarray) -> np.ndarray:
    """(3,) metres, whatever stray points there are."""
    return np.ptp(coord_m[~stray_points(coord_m)], axis=0)


def is_too_large(extent_m: np.ndarray) -> bool:
    """Whether no building is of that extent (`extent_of`), z up: its unit must be another."""
    longest = extent_m.max()
    return bool(longest > LARGEST_M or (longest > LARGEST_HIGH_M and extent_m[2] > HIGH_M))


def is_flat_cm(extent: np.ndarray) -> bool:
    """Whether (3,) lengths, longer than LARGEST_M, are those of a flat in centimetres."""
    shortest, middle, longest = sorted(extent.tolist())
    low, high = FLAT_HIGH_CM
    return low <= shortest <= high and middle <= FLAT_WIDE_CM and longest <= LONGEST_CM


def size_note(coord_m: np.ndarray, remedy: Callable[[float], str], *, stated: bool) -> str | None:
    """What to say of a scan that is too large or too small for an indoor one: of one whose unit is
    `stated` that alone, of others which unit it may be in (`extent_note`)."""
    return large_note(coord_m) if stated else extent_note(coord_m, remedy)


def extent_note(coord_m: np.ndarray, remedy: Callable[[float], str]) -> str | None:
    """What to say of a scan that is too large or too small for an indoor one; None if it is neither.

    Args:
        coord_m: (N, 3) metres, z up.
        remedy: words for what scales it by a factor.
    """
    extent = extent_of(coord_m)
    shortest, longest = float(extent.min()), float(extent.max())
    if longest > LARGEST_M:
        low = LEAST_ROOM_CM < shortest < LEAST_ROOM_MM and longest <= LONGEST_CM
        if low and not is_flat_cm(extent):
            return _low_note(longest, remedy)
        unit = "centimetres" if low else "millimetres"
    elif is_too_large(extent) or shortest > HIGH_M:  # the latter a few halls are, which is no refusal
        unit = "centimetres" if extent[2] > LEAST_ROOM_CM else "inches"
    elif len(coord_m) > 1 and longest < SMALLEST_M:
        return f"the scan is {longest:.2g} m across, little for a room: is its unit larger than a metre?"
    else:
        return _feet_note(coord_m, remedy)
    factor = UNITS[unit]
    return (
        f"the scan is {longest:,.0f} m across: an indoor scan of that size is likely in {unit} "
        f"({longest * factor:.3g} m then); {remedy(factor)} makes metres of them"
    )


def large_note(coord_m: np.ndarray) -> str | None:
    """What to say of a scan of a stated unit, (N, 3) metres with z up, large for an indoor one."""
    extent = extent_of(coord_m)
    if not is_too_large(extent) and extent.min() <= HIGH_M:
        return None
    lengths = " × ".join(f"{length:,.0f}" for length in extent.tolist())
    return (
        f"the scan is {lengths} m by the unit that is stated for it: large for a room (an outdoor scan?)"
    )


def _low_note(longest: float, remedy: Callable[[float], str]) -> str:
    """A hall in centimetres and a part of a room in millimetres are of one size."""
    millimetres, centimetres = UNITS["millimetres"], UNITS["centimetres"]
    return (
        f"the scan is {longest:,.0f} m across: an indoor scan of that size is likely in millimetres "
        f"({longest * millimetres:.3g} m then) or in centimetres ({longest * centimetres:.3g} m); "
        f"{remedy(millimetres)} makes metres of the former, {remedy(centimetres)} of the latter"
    )


def _feet_note(coord_m: np.ndarray, remedy: Callable[[float], str]) -> str | None:
    low, high = np.percentile(coord_m[:, 2], HEIGHTS)
    height = float(high - low)
    if not HALL_M[0] < height < HALL_M[1]:
        return None
    feet = UNITS["feet"]
    return (
        f"the scan is {height:.1f} m high, as a hall or two storeys are; if it is one room, in feet "
        f"({height * feet:.2g} m then), {remedy(feet)} makes metres of them"
    )
