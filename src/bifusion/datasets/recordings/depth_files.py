"""Depth as files of any kind: pictures of whole numbers, and floats (.npy, float TIFF, .exr), which are
mostly metres. What was not measured is 0, or, of floats, not finite or negative."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bifusion.datasets.recordings.exr import MOST_PIXELS, read_exr_m
from bifusion.errors import InputError
from bifusion.untrusted.arrays import load_npy
from bifusion.untrusted.pictures import image_mode, read_depth_m, read_float_picture

MISSING = "missing; the frame's depth is expected there"
FLOATS = "depth is stored as floats: taken as metres (--depth-scale gives another unit)"
"""What to say of files that `holds_floats`."""


def holds_floats(path: Path) -> bool:
    """Whether depth is stored as floats. InputError for a file that cannot be read."""
    ending = path.suffix.lower()
    if ending == ".npy":
        return load_npy(path, missing=MISSING).dtype.kind == "f"
    return ending == ".exr" or (ending in (".tif", ".tiff") and image_mode(path).startswith("F"))


def read_depth_file(path: Path, units_per_metre: float) -> np.ndarray:
    """(h, w) float32 metres, 0 where nothing was measured.

    Raises InputError: missing, damaged, no depth map.
    """
    ending = path.suffix.lower()
    if not (ending == ".npy" or holds_floats(path)):
        return read_depth_m(path, units_per_metre)
    if ending == ".exr":
        stored = read_exr_m(path)
    else:
        stored = _of_array(path) if ending == ".npy" else read_float_picture(path)
    with np.errstate(invalid="ignore"):
        measured = np.isfinite(stored) & (stored > 0)
    return np.where(measured, stored, 0).astype(np.float32) / np.float32(units_per_metre)


def _of_array(path: Path) -> np.ndarray:
    """(h, w) of an array, without axes of length 1; 65535 of 16 bits is none, as in pictures."""
    stored = load_npy(path, missing=MISSING)
    depth = stored.squeeze() if stored.ndim > 2 else stored
    if depth.ndim != 2 or not 0 < depth.size <= MOST_PIXELS or depth.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: is {stored.dtype} of shape {stored.shape}; expected a depth map, numbers of shape "
            "(H, W)"
        )
    return np.where(depth == 65535, 0, depth) if depth.dtype == np.uint16 else depth
