"""Wavefront OBJ files: a mesh with colours at its vertices, or in a texture.

Vertices keep the file's order and number, also where faces on both sides of a seam give them different
places in the texture: they take the mean. Format: Alias|Wavefront "Object Files" (appendix B1), with the
colour behind a vertex' position that MeshLab and scanner apps write.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from bifusion.datasets.mesh_files.obj_colors import (
    NO_COLOUR,
    Corners,
    Look,
    material_colors,
    read_looks,
    surface_colors,
)
from bifusion.datasets.ply.colors import CHANNELS, read_colors
from bifusion.datasets.ply.mesh import GREY, Mesh, fans
from bifusion.datasets.ply.placed import placed
from bifusion.datasets.ply.surface_colors import SurfaceColors
from bifusion.errors import InputError
from bifusion.untrusted.files import open_regular

MOST_BYTES = 2 << 30
MOST_MATERIALS, MOST_LIBRARIES = 4096, 64
PLAIN, COLORED = (3, 4), (6, 7)
"""Numbers of a vertex without and with a colour, and perhaps a weight or an alpha."""
NO_MATERIALS = "has no colours and no materials (mtllib)"


_NON_ASCII_END = re.compile("[\udc80-\udcff]\\\\\n$")
"""A backslash behind a byte that is no ASCII: the second byte of a letter in GBK, as names have them."""


@dataclass
class _Lines:
    """The lines of a file that matter, split into words."""

    vertex: list[str] = field(default_factory=list)
    uv: list[str] = field(default_factory=list)
    corners: list[str] = field(default_factory=list)
    """Of all faces, one after another."""
    counts: list[int] = field(default_factory=list)
    """Corners of each face."""
    before: list[tuple[int, int]] = field(default_factory=list)
    """Vertices and texture points read before each face, from which negative numbers count."""
    material: list[int] = field(default_factory=list)
    """Number in `names` of each face, −1 none."""
    names: list[str] = field(default_factory=list)
    libraries: dict[str, None] = field(default_factory=dict)
    """Files of materials, each once, in order."""


def read_obj(path: Path) -> Mesh:
    """The mesh in `path`; polygons become fans of triangles. Vertices whose place is not finite are left
    out with their faces, which is said.

    Raises InputError: no readable OBJ file, no colours, a face that names what is not there, a texture
    that is missing.
    """
    lines = _read_lines(path)
    if not lines.vertex:
        raise InputError(f"{path}: has no vertices (lines 'v x y z'); export it as OBJ again")
    coord, own, stored = _vertices(lines.vertex, path)
    counts = np.array(lines.counts, np.int64)
    corners = _corners(lines, counts, path)
    notes: list[str] = []
    places = fans(counts)
    color, surface = _colors(path, lines, corners, places, own, stored, notes)
    there = placed(coord, path, notes, corners.vertex[places])
    coord = there.vertices(coord)
    return Mesh(
        coord=coord,
        color=there.vertices(color),
        faces=there.faces(corners.vertex[places]),
        spacing=float(np.spacing(np.abs(coord).max())),
        surface=surface and surface.of(there.triangle),
        notes=notes,
    )


def _vertices(lines: list[str], path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 3) coordinates, (N,) bool which vertices have a colour of their own, and these (K, 3) as they
    are stored."""
    own = np.array([len(line.split()) for line in lines]) >= min(COLORED)
    if own.all() or not own.any():
        table = _table(lines, path, "v", PLAIN + COLORED)
        return table[:, :3], own, _stored_colors(table)
    colored = _table([lines[row] for row in np.flatnonzero(own).tolist()], path, "v", COLORED)
    coord = np.empty((len(lines), 3))
    coord[own] = colored[:, :3]
    coord[~own] = _table([lines[row] for row in np.flatnonzero(~own).tolist()], path, "v", PLAIN)[:, :3]
    return coord, own, _stored_colors(colored)


def _colors(
    path: Path,
    lines: _Lines,
    corners: Corners,
    places: np.ndarray,
    own: np.ndarray,
    stored: np.ndarray,
    notes: list[str],
) -> tuple[np.ndarray, SurfaceColors | None]:
    """(N, 3) uint8 RGB of the vertices: their own, (K, 3) as `stored`, or their faces' materials', and
    what these have between them, in triangles of corners at (F, 3) `places`.

    The materials' are for vertices without one of their own, and for all where these are all the same
    and a texture lies beside them, as programs write it that know no vertex colours.
    """
    color, said = np.full((len(own), 3), GREY, np.uint8), list[str]()
    if len(stored):
        columns = {channel: stored[:, k] for k, channel in enumerate(CHANNELS)}
        color[own] = read_colors({**columns}, path, (), said)
    looks: list[Look] = []
    if lines.libraries and not (own.all() and (color != color[0]).any()):
        used = np.isin(np.arange(len(lines.names)), corners.look)
        looks = read_looks(path, list(lines.libraries), lines.names, used)
    table = _table(lines.uv, path, "vt", (1, 2, 3)) if lines.uv and looks else np.zeros((0, 2))
    if own.all() and not any(look.texture for look in looks):
        notes += said
        return color, None
    found, seen = material_colors(path, looks, corners, table, len(own))
    if own.any():
        notes += [] if own.all() else said
        color = _beside_own(path, color, own, found, seen, notes)
        surface = surface_colors(looks, corners, table, places)
        if not own.all():
            surface.look[own[corners.vertex[places]].any(axis=1)] = -1
        return color, surface
    if not seen.any():
        what = "its faces have no texture and no colours" if lines.libraries else NO_MATERIALS
        raise InputError(f"{path}: {what}; {NO_COLOUR}")
    notes.append("vertices have the colour of the texture at their place")
    if not seen.all():
        notes.append(f"{int((~seen).sum()):,} of {len(own):,} vertices are on no textured face: grey")
    return found, surface_colors(looks, corners, table, places)


def _beside_own(
    path: Path, color: np.ndarray, own: np.ndarray, found: np.ndarray, seen: np.ndarray, notes: list[str]
) -> np.ndarray:
    """(N, 3) uint8 of vertices' own colours `color` and those `found` of materials. InputError where a
    vertex has neither."""
    bare = ~own
    if bare.any():
        without = int((bare & ~seen).sum())
        if without:
            raise InputError(
                f"{path}: {without:,} of {len(own):,} vertices have no colour (the first is vertex "
                f"{int((bare & ~seen).argmax()) + 1}), others have; expected one behind each vertex, or "
                "a material's: export it with colours at all vertices"
            )
        notes.append(
            f"{int(bare.sum()):,} of {len(own):,} vertices have no colour of their own: theirs is that "
            "of their faces' materials"
        )
        return np.where(own[:, None], color, found)
    notes.append(f"all vertices have the colour {color[0].tolist()}: the texture's are taken instead")
    return np.where(seen[:, None], found, color)


def _stored_colors(table: np.ndarray) -> np.ndarray:
    """(K, 3) colours behind the coordinates; (0, 3) where there are none."""
    if table.shape[1] < min(COLORED):
        return np.zeros((0, 3))
    first = 4 if _has_weights(table) else 3
    return table[:, first : first + 3]


def _read_lines(path: Path) -> _Lines:
    found, current = _Lines(), -1
    numbers: dict[str, int] = {}
    raw = open_regular(path, most_bytes=MOST_BYTES, advice="export it as .ply or .glb")
    with TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in _whole_lines(file):
            word, *after = _uncommented(line).split(None, 1)[:2] or [""]
            rest = after[0].strip() if after else ""
            if word == "v":
                found.vertex.append(rest)
            elif word == "vt":
                found.uv.append(rest)
            elif word == "f":
                corners = rest.split()
                if len(corners) < 3:
                    continue
                found.corners += corners
                found.counts.append(len(corners))
                found.before.append((len(found.vertex), len(found.uv)))
                found.material.append(current)
            elif word == "usemtl":
                current = numbers.setdefault(rest, len(numbers))
            elif word == "mtllib":
                found.libraries[rest] = None
    found.names = list(numbers)
    if len(found.names) > MOST_MATERIALS or len(found.libraries) > MOST_LIBRARIES:
        raise InputError(
            f"{path}: names {len(found.names):,} materials of {len(found.libraries):,} files; expected "
            f"at most {MOST_MATERIALS:,} of {MOST_LIBRARIES}"
        )
    return found


def _whole_lines(file: Iterable[str]) -> Iterator[str]:
    """Lines, those joined that a backslash at the end of one continues."""
    begun: list[str] = []
    for line in file:
        if line.endswith("\\\n") and not line.startswith("#") and not _NON_ASCII_END.search(line):
            begun.append(line[:-2])
        elif begun:
            yield " ".join([*begun, line])
            begun = []
        else:
            yield line


def _uncommented(line: str) -> str:
    """Without the comment behind numbers; names may have a # of their own."""
    return line.partition("#")[0] if line.lstrip()[:2] in ("v ", "vt", "f ", "v\t", "f\t") else line


def _table(lines: list[str], path: Path, what: str, widths: tuple[int, ...]) -> np.ndarray:
    """(N, width) float64 of lines that have equally many numbers."""
    lengths = [len(line.split()) for line in lines]
    width = lengths[0]
    if width not in widths or set(lengths) != {width}:
        other = next((k for k, length in enumerate(lengths) if length != width), 0)
        raise InputError(
            f"{path}: lines '{what}' have {width} and {lengths[other]} numbers "
            f"({lines[other][:60]!r}); expected {' or '.join(map(str, widths))}: export it again"
        )
    return _numbers(" ".join(lines), np.float64, f"{path}: a line '{what}'").reshape(-1, width)


def _has_weights(table: np.ndarray) -> bool:
    """Whether (N, 7) are x y z w and colour, as the format has it, and no x y z, colour and alpha."""
    if table.shape[1] != 7:
        return False
    return bool((table[:, 3] == 1).all()) and not bool((table[:, 6] == 1).all())


def _numbers(text: str, dtype: type, where: str) -> np.ndarray:
    """(K,) the numbers between the blanks of `text`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # how numpy tells of what is no number
            return np.fromstring(text, dtype, sep=" ")
    except (ValueError, DeprecationWarning):
        word = next((word for word in text.split() if not _is_number(word)), "")
        raise InputError(
            f"{where} holds {word[:40]!r}, expected numbers with points; export it again"
        ) from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _corners(lines: _Lines, counts: np.ndarray, path: Path) -> Corners:
    """Of all faces, `counts` corners each. InputError: one names what is not there."""
    number = np.zeros((len(lines.corners), 2), np.int64)
    slashes = [corner.count("/") for corner in lines.corners]
    for count in set(slashes):
        rows = [k for k, found in enumerate(slashes) if found == count]
        text = " ".join([lines.corners[k] for k in rows]).replace("//", "/0/").replace("/", " ")
        found = _numbers(text, np.int64, f"{path}: a face")
        if len(found) != len(rows) * (count + 1):
            raise InputError(f"{path}: a corner of a face lacks a number; export it again")
        number[rows, : min(count + 1, 2)] = found.reshape(-1, count + 1)[:, :2]
    before = np.repeat(np.array(lines.before, np.int64).reshape(-1, 2), counts, axis=0)
    number = np.where(number < 0, before + number, number - 1)
    most = (len(lines.vertex), len(lines.uv))
    wrong = ((number < (0, -1)) | (number >= most)).any(axis=1)
    if wrong.any():
        corner = lines.corners[int(wrong.argmax())]
        raise InputError(
            f"{path}: a face names corner {corner[:40]!r}, but there are {most[0]:,} vertices and "
            f"{most[1]:,} texture points, numbered from 1; export it again"
        )
    return Corners(number[:, 0], number[:, 1], np.repeat(np.array(lines.material, np.int64), counts))
