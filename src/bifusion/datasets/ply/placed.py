"""Vertices that have a place: writers give NaN to points that a depth camera did not measure, and some
programs to what they could not compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bifusion.data.checks import check_finite
from bifusion.datasets.ply.body import Columns
from bifusion.errors import InputError
from bifusion.wording import plural

NO_FACES = np.zeros((0, 3), np.int64)


@dataclass(frozen=True)
class Placed:
    """Which of a mesh's N vertices have a place, and which of its F triangles have no others."""

    vertex: np.ndarray
    """(N,) bool."""
    triangle: np.ndarray
    """(F,) bool."""

    def vertices(self, rows: np.ndarray) -> np.ndarray:
        """Those of (N, …) that have a place; the array itself where all have."""
        return rows if self.vertex.all() else rows[self.vertex]

    def columns(self, columns: Columns) -> Columns:
        """Columns of one number a vertex, of those that have a place; lists are left out."""
        plain = ((name, one) for name, one in columns.items() if isinstance(one, np.ndarray))
        return {name: self.vertices(one) for name, one in plain}

    def faces(self, faces: np.ndarray) -> np.ndarray:
        """Triangles (F, 3) of vertices that have a place, by the numbers that these have now."""
        if self.vertex.all():
            return faces
        return (np.cumsum(self.vertex) - 1)[faces[self.triangle]]


def placed(coord: np.ndarray, path: Path, notes: list[str], faces: np.ndarray = NO_FACES) -> Placed:
    """Which of (N, 3) vertices have a finite place, and which of (F, 3) triangles; what is to be left
    out is said in `notes`.

    Raises InputError: no vertex has one, or one lies farther away than any scan's.
    """
    vertex = np.asarray(np.isfinite(coord).all(axis=1))
    if not vertex.any():
        raise InputError(f"{path}: holds no point with a finite place; expected at least one")
    found = Placed(vertex, np.asarray(vertex[faces].all(axis=1)))
    check_finite(found.vertices(coord), path)
    if (lost := int((~vertex).sum())) and len(faces):
        notes.append(
            f"{lost:,} of {len(vertex):,} vertices without a place (NaN or infinite) left out, and "
            f"{int((~found.triangle).sum()):,} of {len(faces):,} triangles with them; labels are of the "
            "others"
        )
    elif lost:
        notes.append(f"{plural(lost, 'point')} without a place left out; labels are of the others")
    return found
