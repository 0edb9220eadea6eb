"""Clouds of the Point Cloud Library and of ROS (.pcd), as text, binary or compressed.

Source: PCL, "The PCD (Point Cloud Data) file format", versions 0.5 to 0.7, and io/src/pcd_io.cpp: rows
of fields as a PLY file has them, or, compressed by LZF, one field after another. A colour is four bytes,
0x_RRGGBB, whose type may be said to be a whole number or a float. Points of a depth camera's picture
that it did not measure are NaN. Points lie in the file's frame; VIEWPOINT says whence they were seen.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bifusion.datasets.mesh_files.lzf import MOST_GAIN, unpack_lzf
from bifusion.datasets.ply.body import Columns, read_elements, stacked
from bifusion.datasets.ply.colors import PACKED, has_colors, read_colors
from bifusion.datasets.ply.header import Element, Header, Property
from bifusion.datasets.ply.mesh import Mesh, unit_normals
from bifusion.datasets.ply.placed import placed
from bifusion.errors import InputError, listing
from bifusion.untrusted.files import open_regular

MOST_HEADER_BYTES = 1 << 16
MOST_POINTS = 200_000_000
MOST_FIELDS = 1000
NORMALS = ("normal_x", "normal_y", "normal_z")
TYPES = {
    "F4": "f4", "F8": "f8", "U1": "u1", "U2": "u2", "U4": "u4", "U8": "u8",
    "I1": "i1", "I2": "i2", "I4": "i4", "I8": "i8",
}  # fmt: skip
COMPRESSED = "binary_compressed"


@dataclass(frozen=True)
class _Head:
    """What stands before the points."""

    fields: tuple[Property, ...]
    """Each with a name of its own; a field of several numbers is several."""
    points: int
    data: str
    size: int
    """Bytes up to where the points begin."""


def read_pcd(path: Path) -> Mesh:
    """The coloured points in `path`, in its own frame and unit; those that were not measured are left
    out, which is said.

    Raises InputError: damaged, other than its header declares, no x, y, z, no colours.
    """
    path = Path(path)
    head = _read_head(path)
    columns = _unpacked(path, head) if head.data == COMPRESSED else _rows(path, head)
    coord = stacked(columns, "xyz")
    if coord is None:
        raise InputError(f"{path}: has no x, y, z; its fields are {_named(columns)}")
    notes: list[str] = []
    there = placed(coord, path, notes)
    columns, coord = there.columns(columns), there.vertices(coord)
    stored_in = np.float64 if head.data == "ascii" else coord.dtype
    return Mesh(
        coord.astype(np.float64), _colors(columns, path, notes), np.zeros((0, 3), np.int64),
        normal=unit_normals(columns, NORMALS), notes=notes,
        spacing=float(np.spacing(np.abs(coord).max().astype(stored_in))),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- header


def _read_head(path: Path) -> _Head:
    with open_regular(path) as file:
        start = file.read(MOST_HEADER_BYTES)
    said: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in said:
        end = start.find(b"\n", at)
        if end < 0:
            raise InputError(
                f"{path}: is no PCD file, or cut short: no line DATA within {len(start):,} bytes"
            )
        words = start[at:end].decode("utf-8", "replace").split()
        if words and not words[0].startswith("#"):
            said["FIELDS" if words[0] == "COLUMNS" else words[0]] = words[1:]
        at = end + 1
    data = " ".join(said["DATA"])
    if data not in ("ascii", "binary", COMPRESSED):
        raise InputError(f"{path}: DATA is {data[:80]!r}; expected ascii, binary or {COMPRESSED}")
    return _Head(_fields(path, said, data), _points(path, said), data, at)


def _points(path: Path, said: dict[str, list[str]]) -> int:
    width, height, points = (_whole(path, said, name) for name in ("WIDTH", "HEIGHT", "POINTS"))
    grid = width * (1 if height is None else height) if width is not None else None
    found = points if points is not None else grid
    if found is None or not 0 < found <= MOST_POINTS:
        raise InputError(f"{path}: says it has {found or 'no'} points; expected 1 to {MOST_POINTS:,}")
    if grid is not None and grid != found:
        raise InputError(f"{path}: says it has {found:,} points, and {grid:,} in WIDTH and HEIGHT")
    return found


def _whole(path: Path, said: dict[str, list[str]], name: str) -> int | None:
    if name not in said:
        return None
    words = said[name]
    if len(words) != 1 or not words[0].isdecimal() or len(words[0]) > 12:
        raise InputError(f"{path}: {name} is {' '.join(words)[:80]!r}; expected a whole number")
    return int(words[0])


def _fields(path: Path, said: dict[str, list[str]], data: str) -> tuple[Property, ...]:
    names = said.get("FIELDS", [])
    sizes, kinds = said.get("SIZE", []), said.get("TYPE", [])
    counts = said.get("COUNT", ["1"] * len(names))
    if not names or not len(names) == len(sizes) == len(kinds) == len(counts):
        raise InputError(
            f"{path}: FIELDS has {len(names)} names, SIZE, TYPE and COUNT {len(sizes)}, {len(kinds)} "
            f"and {len(counts)} entries; expected as many: export it again"
        )
    fields: list[Property] = []
    for number, (name, size, kind, count) in enumerate(zip(names, sizes, kinds, counts, strict=True)):
        stored = TYPES.get(kind.upper() + size)
        if stored is None or not (
            count.isdecimal() and len(count) < 5 and 0 < int(count) <= MOST_FIELDS
        ):
            raise InputError(
                f"{path}: field {name[:80]!r} is {count[:9]} × {kind[:9]}{size[:9]}, unknown"
            )
        if name.lower() in PACKED and stored[1] == "4":
            stored = "f8" if data == "ascii" else "u4"  # its four bytes, or whatever is written for them
        one = name.lower() if name != "_" else f"_{number}"  # bytes between fields have no name
        fields += [
            Property(one if count == "1" else f"{one}[{index}]", np.dtype(stored))
            for index in range(int(count))
        ]
    known = [field.name for field in fields]
    if len(set(known)) < len(known) or len(known) > MOST_FIELDS:
        raise InputError(f"{path}: has a field twice, or more than {MOST_FIELDS}; export it again")
    return tuple(fields)


# ------------------------------------------------------------------------------------------- points


def _rows(path: Path, head: _Head) -> Columns:
    """Points that stand one after another, as those of a PLY file do."""
    encoding = "ascii" if head.data == "ascii" else "<"
    element = Element("point", head.points, head.fields)
    return read_elements(path, Header(encoding, (element,), (), head.size), ("point",))["point"]


def _unpacked(path: Path, head: _Head) -> Columns:
    """Points whose fields stand one after another, compressed: two lengths of four bytes come first."""
    with open_regular(path) as file:
        file.seek(head.size)
        lengths = file.read(8)
        packed, size = struct.unpack("<II", lengths) if len(lengths) == 8 else (0, 0)
        there = path.stat().st_size - head.size - 8
        expected = head.points * sum(field.dtype.itemsize for field in head.fields)
        if size != expected or not size <= packed * MOST_GAIN or packed > there:
            raise InputError(
                f"{path}: its {head.points:,} points take {expected:,} bytes; it says {size:,} are "
                f"compressed to {packed:,}, and has {max(there, 0):,}: copy or export it again"
            )
        data = file.read(packed)
    try:
        plain = unpack_lzf(data, size)
    except ValueError as error:
        raise InputError(f"{path}: what is compressed is damaged: {error}; copy it again") from None
    columns, at = Columns(), 0
    for field in head.fields:
        stored = field.dtype.newbyteorder("<")
        columns[field.name] = np.frombuffer(plain, stored, head.points, at).astype(field.dtype)
        at += head.points * field.dtype.itemsize
    return columns


def _named(columns: Columns) -> str:
    return listing([name[:40] for name in columns if not name.startswith("_")], 12)


# ------------------------------------------------------------------------------------------- colours


def _colors(columns: Columns, path: Path, notes: list[str]) -> np.ndarray:
    """(N, 3) uint8 RGB."""
    if has_colors(columns):
        return read_colors(columns, path, (), notes)
    raise InputError(
        f"{path}: its points have {_named(columns)}: no colours (rgb), which the networks need; export "
        "the scan with colours"
    )
