"""Vertex colours of PLY files, which programs store in several types and ranges, as uint8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bifusion.datasets.ply.body import Columns, stacked
from bifusion.errors import InputError
from bifusion.untrusted.pictures import TWELVE_BITS

CHANNELS = ("red", "green", "blue")
NAMES = (CHANNELS, tuple(f"diffuse_{channel}" for channel in CHANNELS), ("r", "g", "b"))
"""What writers call them, in the order in which they are looked for."""
PACKED = ("rgb", "rgba")
"""What the Point Cloud Library calls a colour's four bytes, 0x_RRGGBB, stored as one number."""
OPAQUE = (0, 255)
"""The fourth byte, where it is none of the colour: nothing, or opaque."""
SLIGHTLY_MORE = 1e-3
"""By how much colours of 0 … 1 may exceed 1, from rounding."""


def has_colors(columns: Columns) -> bool:
    """Whether an element has colours under one of their names."""
    return any(stacked(columns, names) is not None for names in NAMES) or _packed(columns) is not None


def read_colors(vertex: Columns, path: Path, comments: Sequence[str], notes: list[str]) -> np.ndarray:
    """(N, 3) uint8 RGB of the vertices; alpha is passed over.

    uchar as it is, and the bytes of colours that are packed; ushort of 0 … 65535 and floats of 0 … 1
    scaled to 0 … 255, floats of 0 … 255 rounded, all three said in `notes`.

    Raises InputError: no colour, or values of no such range.
    """
    color = next((c for c in (stacked(vertex, names) for names in NAMES) if c is not None), None)
    if color is None and (packed := _packed(vertex)) is not None:
        bits = _bits(packed, path)
        color = np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], axis=1).astype(np.uint8)
    if color is None:
        raise InputError(f"{path}: {_no_color(vertex, comments)}")
    if color.dtype == np.uint8:
        return color
    low, high = color.min(), color.max()
    found = f"colours are stored as {color.dtype} from {low:g} to {high:g}"
    factor = _factor(color, float(low), float(high))
    if factor is None and is_of_fewer_bits(color.dtype, float(high)):
        raise InputError(f"{path}: {found}, {FEWER_BITS}")
    if factor is None:
        raise InputError(
            f"{path}: {found}; expected uchar of 0 … 255, ushort of 0 … 65535, or floats of 0 … 1 "
            "or 0 … 255: export the file again"
        )
    if factor != 1:
        notes.append(f"{found}: scaled to 0 … 255")
    elif color.dtype.kind == "f":
        notes.append(f"{found}: taken as 0 … 255, rounded")
    return np.clip(np.rint(color.astype(np.float64) * factor), 0, 255).astype(np.uint8)


def _factor(color: np.ndarray, low: float, high: float) -> float | None:
    """What brings the values to 0 … 255; None for values of no known range."""
    if not (np.isfinite(low) and np.isfinite(high)) or low < -SLIGHTLY_MORE:
        return None
    if color.dtype.kind == "f":
        if high <= 1 + SLIGHTLY_MORE:
            return 255.0
        # A brightness of 1.5 may be 0 … 1 overexposed as well as 0 … 255 nearly black.
        return 1.0 if 2 < high <= 255 or np.array_equal(color, np.round(color)) and high <= 255 else None
    if high <= 255:
        return 1.0
    fits = color.dtype == np.uint16 and not is_of_fewer_bits(color.dtype, high)
    return 255 / 65535 if fits else None


def _packed(columns: Columns) -> np.ndarray | None:
    """(N,) colours that are four bytes each, or the numbers that a text has for them."""
    found = (columns.get(name) for name in PACKED)
    numbers = (one for one in found if isinstance(one, np.ndarray))
    return next((one for one in numbers if one.dtype.itemsize == 4 or one.dtype == np.float64), None)


def _bits(packed: np.ndarray, path: Path) -> np.ndarray:
    """(N,) uint32 four bytes of each colour.

    Floats, and the numbers that texts have, are looked at whether they are such bytes: older writers
    print the float that has these bytes, others the whole number.
    """
    if packed.dtype.kind in "iu":
        return packed.view(np.uint32)
    of_text = packed.dtype == np.float64
    finite = bool(np.isfinite(packed).all())  # floats that have the bytes of opaque colours may be NaN
    low, high = (float(packed.min()), float(packed.max())) if finite else (math.nan, math.nan)
    if of_text and (packed == np.floor(packed)).all() and low >= -(2**31) and high < 2**32:
        return (packed.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)
    with np.errstate(over="ignore"):
        bits = packed.astype(np.float32, copy=False).view(np.uint32)
    if (of_text and not finite) or not np.isin(bits >> 24, OPAQUE).all():
        raise InputError(
            f"{path}: its colours are written as numbers from {low:g} to {high:g}, whose bytes are "
            "none; export it with red, green and blue of 0 … 255"
        )
    return bits


FEWER_BITS = "as of 10 or 12 bits in 16; expected 0 … 255 or 0 … 65535: export it with 8 bits a colour"


def is_of_fewer_bits(dtype: np.dtype, high: float) -> bool:
    """Whether 16-bit colours up to `high` use so few of their bits that they are none."""
    return dtype == np.uint16 and 255 < high <= TWELVE_BITS


def _no_color(vertex: Columns, comments: Sequence[str]) -> str:
    """Why there are no colours, as far as the file tells, and what to do."""
    lacking = [name for name in CHANNELS if name not in vertex]
    lacks = f"the vertices lack {', '.join(lacking)}; they have {', '.join(vertex)}"
    if "f_dc_0" in vertex:
        return f"{lacks}: Gaussian splats are no scanned surface; give the scan's mesh or cloud"
    if any(comment.lower().startswith("texturefile") for comment in comments):
        return f"{lacks}: its colours lie in a texture; transfer them to the vertices (as in MeshLab)"
    return f"{lacks}: the networks need colours, export the file with them"
