"""A shown scan as few bytes: what the page's script takes apart again (`scripts/data.js`).

Points are put in Morton order, in which neighbours in space are neighbours in the file; each column is
stored as differences modulo its width, bytes of equal weight together, and everything is deflated. The
script shuffles the points, by a generator of its own, so that any first part of them is an even sample.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from bifusion.datasets.placement import stray_points
from bifusion.labels.palette import distinct_color
from bifusion.viewer.packed_faces import MOST_FACES, PackedFaces, fewer_faces, pack_faces
from bifusion.viewer.shown_scan import ShownScan, ShownSegmentation, ShownView, ShownWord

POSITION_STEPS = 2**16 - 1
"""A coordinate is one of so many steps of the scan's box: 0.15 mm in a room of 10 m."""
COARSE_M = 0.005
"""Larger steps show: stray points that make them so large are not shown where they are."""
FAR_M = 1000.0
"""A scan with points farther from the origin is told from its corner: graphics count in float32."""
MORTON_BITS = 10
LEVEL = 6
"""Of zlib: the highest takes ten times as long for 1 % less."""


def pack(scan: ShownScan) -> tuple[dict[str, Any], bytes, PackedFaces | None]:
    """What the page knows of the scan as JSON's own types; its columns, deflated; its triangles.

    Lengths are metres from `origin`. `columns` of the first lists (name, bytes a value) in the order of
    the second; of classes and objects 0 is none, k + 1 the k-th of `classes` or `objects`.
    """
    coord, stray = _within_reach(np.asarray(scan.coord, dtype=np.float64))
    origin = coord.min(axis=0) if np.abs(coord).max() > FAR_M else np.zeros(3)
    coord = coord - origin
    low, high = coord.min(axis=0), coord.max(axis=0)
    size = np.maximum(high - low, 1e-6)
    steps = np.rint((coord - low) / size * POSITION_STEPS).astype(np.uint16)
    order = np.argsort(_morton(steps), kind="stable")
    columns = dict(zip("xyz", steps.T, strict=True))
    if scan.color is not None:
        columns |= dict(zip("rgb", np.asarray(scan.color, dtype=np.uint8).T, strict=True))
    parts = {"predicted": scan.predicted, "annotated": scan.annotated}
    known = {name: part for name, part in parts.items() if part is not None}
    for name, part in known.items():
        columns[f"{name}_class"] = _narrow(part.semantic.astype(np.int64) + 1)
        columns[f"{name}_object"] = _narrow(_ranks(part))
    if scan.seen is not None:
        columns["seen"] = np.minimum(scan.seen, 255).astype(np.uint8)
    if scan.part is not None and scan.words:
        columns["part"] = _narrow(scan.part)
    faces, told = _faces(scan, coord, order, stray)
    if stray.any():
        lies = "point lies" if stray.sum() == 1 else "points lie"
        told = (f"{stray.sum():,} {lies} far from the rest, shown at its border.", *told)
    described = {
        "name": scan.name,
        "points": len(coord),
        "origin": origin.tolist(),
        "low": low.tolist(),
        "size": size.tolist(),
        "faces": faces.count if faces else 0,
        "columns": [[name, column.itemsize] for name, column in columns.items()],
        "classes": [{"name": one.name, "color": list(one.color)} for one in scan.classes],
        "sources": {name: _objects(part, origin) for name, part in known.items()},
        "views": [_view(view, origin) for view in scan.views],
        "words": [_word(word, origin) for word in scan.words],
        "notes": [*scan.notes, *told],
    }
    return described, zlib.compress(b"".join(_coded(c[order]) for c in columns.values()), LEVEL), faces


def _within_reach(coord: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) `coord`, and which of them, (N,) bool, are a few stray points that would leave steps of
    more than COARSE_M to all others: these are at the border of the others' box."""
    stray = np.zeros(len(coord), dtype=bool)
    if np.ptp(coord, axis=0).max() > COARSE_M * POSITION_STEPS:
        stray = stray_points(coord)
    if not stray.any():
        return coord, stray
    rest = coord[~stray]
    return np.clip(coord, rest.min(axis=0), rest.max(axis=0)), stray


def _faces(
    scan: ShownScan, coord: np.ndarray, order: np.ndarray, stray: np.ndarray
) -> tuple[PackedFaces | None, tuple[str, ...]]:
    """Its triangles but those out to `stray` points (N,), None where it has none, and what to know of
    them."""
    if scan.faces is None:
        return None, ()
    whole = scan.faces[~stray[scan.faces].any(axis=1)] if stray.any() else scan.faces
    if not len(whole):
        return None, ()
    faces = fewer_faces(coord, whole, MOST_FACES)
    if not len(faces):
        return None, ()
    told = f"The surface is shown coarsely: {len(faces):,} of its {len(whole):,} triangles."
    return pack_faces(faces, order), (told,) if len(faces) < len(whole) else ()


def _morton(steps: np.ndarray) -> np.ndarray:
    """(N,) int32 place on a Z-order curve of (N, 3) uint16 positions, as finely as 32 bits allow."""
    cells = (steps >> (16 - MORTON_BITS)).astype(np.int32)
    key = np.zeros(len(steps), dtype=np.int32)
    for bit in range(MORTON_BITS):
        for axis in range(3):
            key |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return key


def _narrow(values: np.ndarray) -> np.ndarray:
    """Non-negative integers in the narrowest unsigned type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _coded(column: np.ndarray) -> bytes:
    """Differences from the value before, modulo the column's width, lowest bytes of all values first."""
    differences = np.diff(column, prepend=column.dtype.type(0))
    planes = differences.astype(column.dtype.newbyteorder("<")).view(np.uint8)
    return planes.reshape(-1, column.itemsize).T.tobytes()


def _ranks(part: ShownSegmentation) -> np.ndarray:
    """(N,) 0 where there is no object, else its place in `part.objects` + 1."""
    ids = np.array([one.id for one in part.objects], dtype=np.int64)
    return np.where(part.instance < 0, 0, np.searchsorted(ids, part.instance) + 1)


def _objects(part: ShownSegmentation, origin: np.ndarray) -> dict[str, Any]:
    return {
        "objects": [
            {
                "id": one.id,
                "label": one.label,
                "points": one.num_points,
                "low": (one.low_m - origin).tolist(),
                "high": (one.high_m - origin).tolist(),
                "score": one.score,
                "color": list(distinct_color(one.id)),
            }
            for one in part.objects
        ]
    }


def _word(word: ShownWord, origin: np.ndarray) -> dict[str, Any]:
    """Levels of the parts, a byte each: 0 not seen, 1 … 255 from the smallest cosine to the largest."""
    known = np.isfinite(word.similarity)
    of_known = word.similarity[known].astype(np.float64)
    low, high = (float(f(initial=start)) for f, start in ((of_known.min, 1.0), (of_known.max, -1.0)))
    levels = np.zeros(len(known), np.uint8)
    levels[known] = 1 + np.rint(254 * (of_known - low) / max(high - low, 1e-6))
    return {
        "name": word.name,
        "low": low,
        "high": high,
        "levels": base64.b64encode(levels.tobytes()).decode(),
        "matches": [
            {
                "similarity": one.similarity,
                "low": (np.array(one.low_m) - origin).tolist(),
                "high": (np.array(one.high_m) - origin).tolist(),
                "object": one.object,
            }
            for one in word.matches
        ],
    }


def _view(view: ShownView, origin: np.ndarray) -> dict[str, Any]:
    cam2world = np.array(view.cam2world, dtype=np.float64)
    cam2world[:3, 3] -= origin
    return {
        "name": view.name,
        "K": np.asarray(view.K, dtype=np.float64).tolist(),
        "size": list(view.size),
        "cam2world": cam2world.tolist(),
        "thumbnail": "data:image/jpeg;base64," + base64.b64encode(view.thumbnail).decode(),
        "warning": view.warning,
    }
