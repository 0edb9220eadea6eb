"""COLOR_0 and TEXCOORD_0 of the primitives of a GLB file as they are stored. Of COLOR_0 trimesh makes
bytes, wrong ones of 16-bit colours, and 8 linear bits are few in the dark; TEXCOORD_0 of whole numbers
it takes for places as they are.

Source: Khronos glTF 2.0, 3.6.2 (accessors), 3.7.2.1 (both: float, or normalised unsigned byte or
short).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.errors import InputError
from bifusion.untrusted.files import open_regular

POINTS, LINES, TRIANGLES, STRIP, FAN = 0, 1, 4, 5, 6
READ_MODES = (POINTS, LINES, TRIANGLES, STRIP)
"""Of primitives that trimesh makes a geometry of."""
FLOAT = 5126
TYPES = {5121: "u1", 5123: "<u2", FLOAT: "<f4"}
WIDTHS = {"VEC2": 2, "VEC3": 3, "VEC4": 4}
READ_ATTRIBUTES = ("POSITION", "COLOR_0", "TEXCOORD_0")
BRIGHTEST = 2.0
"""Colours above it are no overexposed ones of 0 … 1."""


def read_primitives(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that trimesh makes a geometry of, in the file's order."""
    primitives = (part for mesh in tree.get("meshes", []) for part in mesh["primitives"])
    return [part for part in primitives if part.get("mode", TRIANGLES) in READ_MODES]


def stored_colors(path: Path, tree: dict[str, Any]) -> list[np.ndarray | None]:
    """(N, 3) float64 shares of 1 for each primitive that is read, in the file's order; None where it has
    no COLOR_0, or one that lies elsewhere than in the file's own numbers.

    Raises InputError: colours beyond 0 … 1.
    """
    primitives = read_primitives(tree)
    places = [part["attributes"].get("COLOR_0") for part in primitives]
    if all(place is None for place in places):
        return [None] * len(primitives)
    data = _binary(path)
    return [None if place is None else _shares(path, tree, place, data) for place in places]


def stored_places(path: Path, tree: dict[str, Any]) -> list[np.ndarray | None]:
    """(N, 2) float64 places in its texture, v downwards, for each primitive that is read, in the file's
    order; None where they are floats, or none."""
    primitives = read_primitives(tree)
    places = [part["attributes"].get("TEXCOORD_0") for part in primitives]
    whole = [place if place is not None and _is_whole(tree, place) else None for place in places]
    data = _binary(path) if any(place is not None for place in whole) else np.zeros(0, np.uint8)
    found = [None if place is None else _stored(tree, place, data) for place in whole]
    return [None if one is None else one[:, :2] / np.iinfo(one.dtype).max for one in found]


def check_stored(path: Path, tree: dict[str, Any]) -> None:
    """InputError for numbers that trimesh takes for zeros, or for others than they mean."""
    for part in read_primitives(tree):
        used = {name: part["attributes"].get(name) for name in READ_ATTRIBUTES}
        used["indices"] = part.get("indices")
        for name, place in used.items():
            accessor = tree["accessors"][place] if place is not None else {"count": 0}
            if "sparse" in accessor or (accessor["count"] and "bufferView" not in accessor):
                kind = "sparse" if "sparse" in accessor else "compressed, or not there"
                raise InputError(
                    f"{path}: the numbers of a mesh's {name} are {kind}, which is not read; export it "
                    "without compression and extensions"
                )
        if _is_whole(tree, part["attributes"]["POSITION"]):
            raise InputError(
                f"{path}: vertices lie at whole numbers (KHR_mesh_quantization), which are not read; "
                "export it without compression and extensions"
            )


def _is_whole(tree: dict[str, Any], place: int) -> bool:
    return tree["accessors"][place].get("componentType") != FLOAT


def _shares(path: Path, tree: dict[str, Any], place: int, data: np.ndarray) -> np.ndarray | None:
    stored = _stored(tree, place, data)
    if stored is None:
        return None
    color = stored[:, :3]
    if color.dtype.kind == "u":
        return color / np.iinfo(color.dtype).max
    if not np.isfinite(color).all() or color.min(initial=0) < 0 or color.max(initial=0) > BRIGHTEST:
        raise InputError(
            f"{path}: vertex colours go from {color.min():g} to {color.max():g}; glTF has them as "
            "0 … 1: export it again"
        )
    return color.astype(np.float64)


def _stored(tree: dict[str, Any], place: int, data: np.ndarray) -> np.ndarray | None:
    """(N, 3 or 4) numbers of an accessor; None where it is no plain one of colours."""
    accessor = tree["accessors"][place]
    kind, width = TYPES.get(accessor.get("componentType")), WIDTHS.get(accessor.get("type"))
    if kind is None or width is None or "sparse" in accessor or "bufferView" not in accessor:
        return None
    view = tree["bufferViews"][accessor["bufferView"]]
    if view.get("buffer", 0) != 0 or "uri" in tree["buffers"][0]:
        return None
    row = np.dtype(kind).itemsize * width
    begin = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    count, stride = accessor["count"], view.get("byteStride") or row
    if count == 0:
        return np.zeros((0, width), kind)
    if begin < 0 or stride < row or begin + (count - 1) * stride + row > len(data):
        raise IndexError("COLOR_0 lies outside the file")
    rows = np.lib.stride_tricks.as_strided(data[begin:], (count, row), (stride, 1), writeable=False)
    return np.ascontiguousarray(rows).view(kind)


def _binary(path: Path) -> np.ndarray:
    """The bytes of the file's BIN chunk, the second; none where it has no such chunk."""
    with open_regular(path) as file:
        file.seek(12)
        (length,) = struct.unpack("<I4x", file.read(8))
        file.seek(20 + length)
        head = file.read(8)
    if len(head) < 8 or head[4:] != b"BIN\0":
        return np.zeros(0, np.uint8)
    whole = np.memmap(path, np.uint8, "r", offset=28 + length)
    return np.asarray(whole[: struct.unpack("<I4x", head)[0]])
