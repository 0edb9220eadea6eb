"""Colours of a mesh's triangles between its vertices, as textures and materials have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

Sampler = Callable[[np.ndarray], np.ndarray]
"""(K, 2) places in a texture → (K, 3) uint8 RGB there; the picture is decoded when it is called."""
MOST_ROWS = 1 << 19
"""Points whose places are computed at a time."""


@dataclass(frozen=True)
class SurfaceColors:
    """What is needed to colour points that are put on triangles later; no picture is decoded for it."""

    uv: np.ndarray
    """(F, 3, 2) float32 place of each corner in its triangle's texture."""
    look: np.ndarray
    """(F,) int32 number of each triangle's sampler, −1: nothing but its vertices' colours."""
    samplers: Sequence[Sampler]

    def of(self, triangle: np.ndarray) -> SurfaceColors:
        """Those of some triangles, (F,) bool."""
        return replace(self, uv=self.uv[triangle], look=self.look[triangle])

    def colors(
        self, corner: np.ndarray, faces: np.ndarray, face: np.ndarray, point: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(K,) bool which of K points have a colour of their triangle, and (K, 3) uint8 that colour.

        Args:
            corner: (N, 3) the mesh's vertices.
            faces: (F, 3) its triangles.
            face: (K,) which of them each point lies in.
            point: (K, 3) the points.
        """
        uv = np.empty((len(face), 2), np.float32)
        for begin in range(0, len(face), MOST_ROWS):
            rows = slice(begin, begin + MOST_ROWS)
            weight = barycentric(corner[faces[face[rows]]], point[rows])
            uv[rows] = np.einsum("kc,kcd->kd", weight, self.uv[face[rows]])
        look, color = self.look[face], np.zeros((len(face), 3), np.uint8)
        order = np.argsort(look, kind="stable")
        begin = np.searchsorted(look[order], np.arange(len(self.samplers) + 1))
        for number, sampler in enumerate(self.samplers):
            rows = order[begin[number] : begin[number + 1]]
            if len(rows):
                color[rows] = sampler(uv[rows].astype(float))
        return look >= 0, color


def barycentric(corner: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(K, 3) weights, each 0 … 1, of the corners (K, 3, 3) of triangles at points (K, 3) in them."""
    first, second, at = (one - corner[:, 0] for one in (corner[:, 1], corner[:, 2], point))
    aa, ab, bb, a, b = (
        np.einsum("kd,kd->k", one, other)
        for one, other in ((first, first), (first, second), (second, second), (at, first), (at, second))
    )
    area = aa * bb - ab * ab
    flat = area <= 1e-12 * aa * bb  # its corners lie in a line: along one of two edges, then
    safe = np.where(flat, 1, area)
    along = a / np.maximum(aa, np.finfo(float).tiny)
    on_first = flat & (along >= 0) & (along <= 1)
    one = np.where(on_first, along, (a * bb - b * ab) / safe)
    two = np.where(on_first, 0, (b * aa - a * ab) / safe)
    on_second = flat & ~on_first
    one = np.where(on_second, 0, one)
    two = np.where(on_second, b / np.maximum(bb, np.finfo(float).tiny), two)
    one, two = np.clip(one, 0, 1), np.clip(two, 0, 1)
    return np.stack([np.clip(1 - one - two, 0, 1), one, two], axis=1)


def joined(parts: Sequence[SurfaceColors]) -> SurfaceColors | None:
    """Those of several meshes, their triangles one after another; None where no triangle has any."""
    number: dict[Sampler, int] = {}
    look = []
    for part in parts:
        numbers = [number.setdefault(sampler, len(number)) for sampler in part.samplers]
        look.append(np.array([*numbers, -1], np.int32)[part.look])
    every = np.concatenate(look)
    if not (every >= 0).any():
        return None
    return SurfaceColors(np.concatenate([part.uv for part in parts]), every, list(number))
