"""Vertices at one place are one: what exporters cut along seams or at every triangle."""

from __future__ import annotations

import numpy as np


def welded(coord: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M,) the first vertex at each place, in the vertices' order, and (N,) which of them each is at."""
    order = np.lexsort(coord.T)  # stable: of equals the first comes first
    ordered = coord[order]
    begins = np.ones(len(coord), dtype=bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(coord), dtype=np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    kept, place = np.unique(first, return_inverse=True)
    return kept, place.reshape(-1)
