"""Where there is something in space: blocks of 8 × 8 × 8 voxels, found by their coordinate.

After Nießner et al., "Real-time 3D Reconstruction at Scale using Voxel Hashing", TOG 2013; the table is
a sorted list of keys, as a picture adds its blocks all at once.
"""

from __future__ import annotations

import numpy as np

from bifusion.errors import InputError

SIDE = 8
"""Voxels along a block's edge."""
VOLUME = SIDE**3
BITS = 21
REACH = 1 << (BITS - 1)
"""Blocks in each direction from the origin that a key can tell."""


def block_keys(coords: np.ndarray) -> np.ndarray:
    """(B,) int64 of (B, 3) whole block coordinates in −REACH … REACH − 1; ordered as they are."""
    x, y, z = (coords.astype(np.int64) + REACH).T
    return (x << 2 * BITS) | (y << BITS) | z


def key_coords(keys: np.ndarray) -> np.ndarray:
    """(B, 3) int64, the inverse of `block_keys`."""
    mask = (1 << BITS) - 1
    return np.stack([keys >> 2 * BITS, (keys >> BITS) & mask, keys & mask], axis=1) - REACH


class BlockTable:
    """Which row of storage holds which block. Rows are given in the order in which blocks come.

    Args:
        most: blocks there may be.
    """

    def __init__(self, most: int):
        self.most = most
        self._keys = np.zeros(0, np.int64)  # ascending
        self._rows = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def coords(self) -> np.ndarray:
        """(B, 3) int64 block coordinates, by row."""
        return key_coords(self._keys[np.argsort(self._rows)])

    def add(self, keys: np.ndarray) -> np.ndarray:
        """(B,) row of each of the ascending, distinct `keys`, new ones included.

        Raises:
            InputError: more than `most` blocks; none of the new ones was added.
        """
        place, found = self._search(keys)
        new = keys[~found]
        if len(self) + len(new) > self.most:
            raise InputError(
                f"fusion: the surface needs more than {self.most:,} blocks of {SIDE}³ voxels; fuse with "
                "larger voxels (--voxel-size-m), fewer frames (--most-frames), or part of the recording"
            )
        rows = np.arange(len(self), len(self) + len(new))
        self._keys = np.insert(self._keys, place[~found], new)
        self._rows = np.insert(self._rows, place[~found], rows)
        return self._rows[np.searchsorted(self._keys, keys)]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """(B,) row of each key, −1 where there is no such block."""
        place, found = self._search(keys)
        rows = np.full(len(keys), -1)
        rows[found] = self._rows[place[found]]
        return rows

    def _search(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.searchsorted(self._keys, keys)
        if not len(self):
            return place, np.zeros(len(keys), bool)
        return place, self._keys[np.minimum(place, len(self) - 1)] == keys
