"""Points of a depth camera's picture that it did not measure: writers give them a place that is NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bifusion.datasets.ply.body import Columns
from bifusion.errors import InputError


def measured_points(
    columns: Columns, coord: np.ndarray, path: Path, notes: list[str]
) -> tuple[Columns, np.ndarray]:
    """Columns and places (M, 3) of those of a cloud's points (N, 3) that have a finite place; that
    others are left out is said in `notes`.

    Raises InputError: no point has one.
    """
    measured = np.isfinite(coord).all(axis=1)
    if measured.all():
        return columns, coord
    if not measured.any():
        raise InputError(f"{path}: holds no point with a finite place; expected at least one")
    left_out = int((~measured).sum())
    notes.append(f"{left_out:,} points without a place left out; labels are of the others")
    plain = ((name, one) for name, one in columns.items() if isinstance(one, np.ndarray))
    return Columns((name, one[measured]) for name, one in plain), coord[measured]
