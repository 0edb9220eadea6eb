"""Depth maps in OpenEXR files, read with the OpenEXR package (extra `phone`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bifusion.errors import InputError
from bifusion.untrusted.files import check_regular

MOST_PIXELS = 1 << 24
"""Depth sensors have a megapixel at most."""
CHANNELS = ("R", "Y", "Z", "V")


def read_exr_m(path: Path) -> np.ndarray:
    """(h, w) float32 metres of the one channel of a scanline file, 0 where not finite or negative.

    Raises InputError: no OpenEXR package, no such file, damaged, too large, several channels.
    """
    try:
        import OpenEXR
    except ImportError:
        raise InputError(
            f"{path}: OpenEXR files need the package OpenEXR: pip install 'bifusion[phone]'"
        ) from None
    check_regular(path, missing="missing; the frame's depth is expected there")
    try:
        header = OpenEXR.File(str(path), header_only=True).header()
        low, high = header["dataWindow"]
        columns, rows = (int(high[k]) - int(low[k]) + 1 for k in (0, 1))
        if not 0 < rows * columns <= MOST_PIXELS or rows < 1:
            raise InputError(f"{path}: says it is {columns}×{rows} pixels; expected a depth map")
        channels = OpenEXR.File(str(path), separate_channels=True).channels()
    except (RuntimeError, ValueError, TypeError, KeyError, OSError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be decoded as OpenEXR ({error}); copy it again") from None
    name = next((name for name in CHANNELS if name in channels), None)
    if name is None or np.asarray(channels[name].pixels).shape != (rows, columns):
        raise InputError(f"{path}: has channels {', '.join(channels)}; expected one of depth, R")
    depth_m = np.asarray(channels[name].pixels).astype(np.float32)
    return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.float32(0))
