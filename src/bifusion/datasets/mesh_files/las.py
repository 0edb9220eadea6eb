"""LAS and LAZ clouds of laser scanners, read with laspy and lazrs (extra `laser`).

Source: ASPRS, LAS Specification 1.4 R15: coordinates are whole numbers times a scale plus an offset,
which float64 holds and float32 does not; points that are withheld count as deleted; colours are 16 bits,
though many writers store 0 … 255; z is up. The unit is that of the coordinate reference system, in WKT
or in GeoTIFF keys (3076, linear unit).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.data.checks import check_finite
from bifusion.datasets.mesh_files.las_points import decode_apart, read_points
from bifusion.datasets.ply.colors import FEWER_BITS, is_of_fewer_bits
from bifusion.datasets.ply.mesh import Mesh
from bifusion.errors import InputError
from bifusion.wording import plural

UP = np.array([0.0, 0.0, 1.0])
MOST_POINTS = 200_000_000
_POINTS_AT = 96
"""Where in the header stands at which byte the points begin."""
_RECORDS = ((100, 54), (243, 60))
"""Where in the header stand the numbers of records before the points and, from version 1.4 on, behind
them; bytes that one takes at least."""
LINEAR_UNIT, VERTICAL_UNIT, ANGULAR_MODEL = 3076, 4099, (1024, 2)
GEOTIFF_UNITS = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}
"""Metre, foot, foot of the US survey, by their numbers in EPSG's list."""
_UNIT = re.compile(r'UNIT\s*[\[(]\s*"([^"]{0,60})"\s*,\s*(\d{0,20}\.?\d{1,20}(?:[eE][+-]?\d{1,3})?)')
ANGLES = ("degree", "radian", "grad")
_NODE = re.compile(r'"[^"]*"|([A-Za-z_0-9]{1,60})\s*[\[(]|[\])]')
"""A text, or the beginning or end of a part of WKT."""
NOT_OF_AXES = {
    "ELLIPSOID",
    "SPHEROID",
    "PARAMETER",
    "PRIMEM",
    "CONVERSION",
    "BASEGEOGCRS",
    "BASEGEODCRS",
}
"""Parts whose units are not those of the coordinates."""
SAME_UNIT = 1e-3
"""Relative difference below which two units are one: the feet of the survey and of the world."""


def read_las(path: Path) -> Mesh:
    """The coloured points in `path`, in its own frame and unit.

    Raises InputError: no laspy, damaged, more points than it has bytes for, no colours, coordinates in
    degrees.
    """
    laspy = _laspy(path)
    _check_records(path)
    try:
        with laspy.open(path) as reader:
            header = reader.header
            _check_header(path, header)
    except InputError:
        raise
    except (
        laspy.errors.LaspyException, struct.error, ValueError, RuntimeError, KeyError, IndexError,
        TypeError, OverflowError, OSError, MemoryError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: cannot be read as LAS ({error}); copy it again") from None
    if header.are_points_compressed:
        _check_chunks(path)
    chunks = list(decode_apart(path) if header.are_points_compressed else read_points(path))
    found, said = sum(len(one) for one, _ in chunks), int(header.point_count)
    if found != said:
        raise InputError(f"{path}: says it has {said:,} points and has {found:,}; copy it again")
    coord = np.concatenate([one for one, _ in chunks])
    color = np.concatenate([one for _, one in chunks])
    notes: list[str] = []
    coord, color = _not_withheld(coord, color, path, notes)
    unit_m = _unit_m(path, header)
    return Mesh(
        coord, _eight_bits(color, path, notes), np.zeros((0, 3), np.int64),
        spacing=float(np.abs(header.scales).max()), up=UP, notes=notes, unit_m=unit_m,
    )  # fmt: skip


def _laspy(path: Path) -> Any:
    try:
        import laspy
        import lazrs  # noqa: F401  # laspy's decoder of .laz
    except ImportError:
        raise InputError(
            f"{path}: LAS files need the packages laspy and lazrs: pip install 'bifusion[laser]'"
        ) from None
    return laspy


def _check_records(path: Path) -> None:
    """InputError for more records than the file has bytes for: laspy reads on behind its end."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(_RECORDS[-1][0] + 4)
    for place, least in _RECORDS if header[25:26] >= b"\x04" else _RECORDS[:1]:
        count = int.from_bytes(header[place : place + 4], "little")
        if count * least > size:
            raise InputError(f"{path}: says it has {count:,} records in {size:,} bytes; copy it again")


def _check_header(path: Path, header: Any) -> None:
    count, names = int(header.point_count), set(header.point_format.dimension_names)
    if not 0 < count <= MOST_POINTS:
        raise InputError(f"{path}: says it has {count:,} points; expected 1 to {MOST_POINTS:,}")
    stored = count * int(header.point_format.size)
    if not header.are_points_compressed and stored > path.stat().st_size:
        raise InputError(
            f"{path}: is cut short: {count:,} points take {stored:,} bytes, it has "
            f"{path.stat().st_size:,}; copy it again"
        )
    if not {"red", "green", "blue"} <= names:
        raise InputError(
            f"{path}: its points (format {header.point_format.id}) have no colours, which the networks "
            "need; export the scan with colours"
        )


def _check_chunks(path: Path) -> None:
    """InputError for a table of more chunks than the file has bytes: lazrs makes room for them unasked.

    Source: LASzip, the header's offset to the points; there eight bytes say where the table is (-1: the
    file's last eight do), which begins with a version and the number of chunks.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:

        def number(place: int, form: str) -> int:
            file.seek(place)
            found = file.read(struct.calcsize(form))
            if len(found) < struct.calcsize(form):
                raise InputError(f"{path}: is cut short at its table of chunks; copy it again")
            return struct.unpack(form, found)[0]

        table = number(number(_POINTS_AT, "<I"), "<q")
        table = number(size - 8, "<q") if table == -1 else table
        if not 0 < table < size:
            raise InputError(f"{path}: its table of chunks lies outside the file; copy it again")
        chunks = number(table + 4, "<I")
    if chunks > size:
        raise InputError(f"{path}: says it has {chunks:,} chunks in {size:,} bytes; copy it again")


def _not_withheld(
    coord: np.ndarray, color: np.ndarray, path: Path, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) coordinates and colours of the points that are there: by the specification, one that is
    withheld counts as deleted."""
    there = ~np.isnan(coord).any(axis=1)
    if not there.any():
        raise InputError(f"{path}: all its points are marked withheld, as deleted; export it again")
    if not there.all():
        left = plural(int((~there).sum()), "point")
        notes.append(f"{left} marked withheld, as deleted, left out; labels are of the others")
        coord, color = coord[there], color[there]
    check_finite(coord, path)
    return coord, color


def _eight_bits(color: np.ndarray, path: Path, notes: list[str]) -> np.ndarray:
    """(N, 3) uint8. InputError for colours of another number of bits."""
    highest = int(color.max())
    if highest <= 255:
        notes.append(f"colours go up to {highest}: taken as 0 … 255, as many writers store them")
        return color.astype(np.uint8)
    if is_of_fewer_bits(color.dtype, highest):
        raise InputError(f"{path}: colours go up to {highest}, {FEWER_BITS}")
    return (color >> 8).astype(np.uint8)


def _unit_m(path: Path, header: Any) -> float | None:
    """Metres a unit, where the file says so. InputError: degrees, or heights in another unit."""
    for record in (*header.vlrs, *(getattr(header, "evlrs", None) or ())):
        keys = {one.id: one.value_offset for one in getattr(record, "geo_keys", ())}
        plan, height = (GEOTIFF_UNITS.get(keys.get(key, 0)) for key in (LINEAR_UNIT, VERTICAL_UNIT))
        angular = keys.get(ANGULAR_MODEL[0]) == ANGULAR_MODEL[1]
        if plan is None:
            plan, height, angular_wkt = _wkt_units(str(getattr(record, "string", "")))
            angular |= angular_wkt
        if plan is not None and height is not None and abs(height / plan - 1) > SAME_UNIT:
            raise InputError(
                f"{path}: its heights are in units of {height:g} m, its plan in units of {plan:g} m; "
                "export it with one unit"
            )
        if plan is not None:
            return plan
        if angular:
            raise InputError(
                f"{path}: its coordinates are degrees of longitude and latitude; export it in a "
                "projected system, such as UTM"
            )
    return None


def _wkt_units(wkt: str) -> tuple[float | None, float | None, bool]:
    """Metres a unit of plan and of height, where a text of WKT (1 or 2) says so, and whether the plan is
    in degrees."""
    within: list[str] = []
    plan: list[float] = []
    height: list[float] = []
    angles = 0
    for node in _NODE.finditer(wkt):
        unit = _UNIT.match(wkt, node.end(1) - len("UNIT")) if (node[1] or "").endswith("UNIT") else None
        if unit and not NOT_OF_AXES.intersection(within):
            size = float(unit[2])
            if unit[1].lower().startswith(ANGLES):
                angles += 1
            elif 1e-4 < size < 1e4:
                (height if any(part.startswith("VERT") for part in within) else plan).append(size)
        if node[1]:
            within.append(node[1].upper())
        elif node[0] in "])" and within:
            within.pop()
    return plan[0] if plan else None, height[0] if height else None, angles > 0 and not plan
