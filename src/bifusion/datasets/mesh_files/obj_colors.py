"""Colours that the materials of an OBJ file give its faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bifusion.datasets.mesh_files.materials import read_materials
from bifusion.datasets.mesh_files.textures import Textures, mean_over_corners, texture_colors
from bifusion.datasets.ply.surface_colors import SurfaceColors
from bifusion.untrusted.pictures import read_color

NO_COLOUR = "the networks need colours, export it with vertex colours or with its texture"


@dataclass(frozen=True)
class Look:
    """What the faces of a material look like; as nothing, where it has neither."""

    texture: Path | None = None
    plain: np.ndarray | None = None
    """(3,) of 0 … 255."""


@dataclass(frozen=True)
class Corners:
    """The corners of all faces, one after another."""

    vertex: np.ndarray
    """(K,) int64."""
    uv: np.ndarray
    """(K,) int64 number of its texture point, −1 none."""
    look: np.ndarray
    """(K,) int64 number of its face's material, −1 none."""


def read_looks(
    path: Path, libraries: Sequence[str], names: Sequence[str], used: np.ndarray
) -> list[Look]:
    """Of each material that an OBJ file names; of those in no face, (N,) bool `used`, nothing is asked.

    Raises InputError: a library that is not there, or the texture of a material in use.
    """
    materials = read_materials(path, libraries)
    meant = [
        materials.get(name) if of_faces else None for name, of_faces in zip(names, used, strict=True)
    ]
    return [Look() if one is None else Look(one.texture_file(), one.diffuse) for one in meant]


def material_colors(
    path: Path, looks: Sequence[Look], corners: Corners, table: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3) uint8 RGB of the vertices, means over the corners at each, and (count,) bool whether
    there are any with a colour: the others are grey.

    `table`: (V, 1 … 3) texture points. Raises InputError: a texture cannot be read.
    """
    textures = Textures(path)
    color = np.zeros((len(corners.vertex), 3))
    known = np.zeros(len(color), bool)
    by_look = np.argsort(corners.look, kind="stable")
    begin = np.searchsorted(corners.look[by_look], np.arange(len(looks) + 1))
    for number, look in enumerate(looks):
        rows = by_look[begin[number] : begin[number + 1]]
        if look.texture is not None:
            rows = rows[corners.uv[rows] >= 0]
            if not len(rows) or table.shape[1] < 2:
                continue
            at = np.nan_to_num(table[corners.uv[rows], :2], nan=0.0, posinf=0.0, neginf=0.0)
            color[rows] = texture_colors(
                textures.get(look.texture, partial(read_color, look.texture)), at
            )
        elif look.plain is not None:
            color[rows] = look.plain
        else:
            continue
        known[rows] = True
    return mean_over_corners(corners.vertex[known], color[known], count)


def surface_colors(
    looks: Sequence[Look], corners: Corners, table: np.ndarray, places: np.ndarray
) -> SurfaceColors:
    """What the materials have between the vertices.

    `places`: (F, 3) places of the triangles' corners among all `corners`.
    """
    look, number = corners.look[places[:, 0]], corners.uv[places]
    textured = np.array([one.texture is not None for one in looks])[look] & (look >= 0)
    plain = np.array([one.texture is None and one.plain is not None for one in looks])[look] & (
        look >= 0
    )
    uv = np.zeros((*places.shape, 2), np.float32)
    if table.shape[1] >= 2:
        uv[textured] = table[number[textured], :2]
        textured &= (number >= 0).all(axis=1) & np.isfinite(uv).all(axis=(1, 2))
    else:
        textured[:] = False
    return SurfaceColors(
        uv, np.where(textured | plain, look, -1).astype(np.int32), [partial(_at, one) for one in looks]
    )


def _at(look: Look, uv: np.ndarray) -> np.ndarray:
    """(K, 3) uint8 of a material at (K, 2) places in its texture."""
    if look.texture is not None:
        return np.rint(texture_colors(read_color(look.texture), uv)).astype(np.uint8)
    plain = np.zeros(3) if look.plain is None else np.rint(look.plain)
    return np.broadcast_to(plain.astype(np.uint8), (len(uv), 3))
