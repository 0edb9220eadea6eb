"""Colours of vertices from the textures of their faces."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np

from bifusion.errors import InputError

GREY = 128
MOST_ROWS = 1 << 20
"""Places that are looked up at a time."""
MOST_TEXELS = 1 << 30
"""Of all textures that are decoded for a mesh; those of a scan have 8192² each at most."""


class Textures:
    """The pictures of a mesh's textures, the last one kept, as faces come by material."""

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, MOST_TEXELS
        self._last: tuple[Hashable, np.ndarray] | None = None

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """(H, W, 3) uint8 of texture `key`. InputError where all together have too many pixels."""
        if self._last is None or self._last[0] != key:
            self._last = key, decode()
            self._left -= self._last[1].size // 3
            if self._left < 0:
                raise InputError(
                    f"{self._path}: its textures have more than {MOST_TEXELS:,} pixels; reduce them"
                )
        return self._last[1]


def texture_colors(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """(K, 3) float64 of 0 … 255: `image` (H, W, 3) at `uv` (K, 2), bilinearly.

    (0, 0) is the picture's bottom-left corner, (1, 1) its top-right; beyond them it repeats.
    """
    color = np.empty((len(uv), 3))
    for begin in range(0, len(uv), MOST_ROWS):
        rows = slice(begin, begin + MOST_ROWS)
        color[rows] = _bilinear(image, uv[rows])
    return color


def _bilinear(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    inside = np.where((uv >= 0) & (uv <= 1), uv, uv - np.floor(uv))
    x = np.clip(inside[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - inside[:, 1]) * height - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left)[:, None], (y - top)[:, None]
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return upper * (1 - down) + lower * down


def mean_over_corners(
    vertex: np.ndarray, color: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3) uint8 mean of the colours (K, 3) of the corners at each vertex (K,), and (count,) bool
    which vertices have any: the others are grey."""
    corners = np.bincount(vertex, minlength=count)
    summed = np.stack([np.bincount(vertex, color[:, k], count) for k in range(3)], axis=1)
    mean = np.where(corners[:, None] > 0, summed / np.maximum(corners, 1)[:, None], GREY)
    return np.clip(np.rint(mean), 0, 255).astype(np.uint8), corners > 0


def srgb_to_linear(color: np.ndarray) -> np.ndarray:
    """Linear intensities 0 … 1 of what sRGB has as 0 … 1 (IEC 61966-2-1)."""
    stored = np.clip(color, 0, 1)
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(color: np.ndarray) -> np.ndarray:
    """Of linear intensities 0 … 1, as sRGB has them (IEC 61966-2-1)."""
    linear = np.clip(color, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
