"""How sure a phone's depth sensor is of each pixel.

ARKit tells three levels (Apple, ARConfidenceLevel: low, medium, high), which apps write as 0, 1, 2 or as
0, 127, 255.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bifusion.errors import InputError
from bifusion.untrusted.pictures import read_color

HIGHEST = 2
"""ARKit's own number for high."""


MEDIUM = 1
"""From which on depth is used where nothing else is asked."""
LEVELS = ("low", "medium", "high")


def share(level: int) -> float:
    """What ARKit's number `level` is in `Frame.confidence`."""
    return level / HIGHEST


def levels(stored: np.ndarray, where: str | Path, highest: int = HIGHEST) -> np.ndarray:
    """(h, w) float32, low 0, medium 0.5, high 1, of stored numbers 0 … `highest`.

    Raises InputError: a larger number.
    """
    if stored.max(initial=0) > highest:
        raise InputError(f"{where}: has confidence {stored.max()}; expected 0 (low) to {highest} (high)")
    return (np.rint(stored.astype(np.float32) * (2 / highest)) / 2).astype(np.float32)


def read_levels(path: Path) -> np.ndarray:
    """(h, w) float32 of a picture of 0, 1, 2."""
    return levels(read_color(path)[..., 0], path)
