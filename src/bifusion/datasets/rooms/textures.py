"""Procedural textures: patterns of one period with equal mean and equal histogram.

Every pattern is +1 on half of the surface and −1 on the other half, so over any window larger than
its period its mean (0), variance (1) and histogram are those of every other pattern.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PATTERNS = ("horizontal stripes", "vertical stripes", "checker", "dots")
"""Pattern numbers 1 … 4; 0 is plain, `TILES` the floor's."""
TILES = 5
TILE_PERIOD_M = 0.7

AMPLITUDE = 0.42
"""A pattern's swing around the mean colour, relative, at texture_contrast 1."""
TILE_AMPLITUDE = 0.04
DOT_RADIUS = float(np.sqrt(0.5 / np.pi))
"""In periods: dots on a square lattice then cover exactly half of it."""

TILE_SAMPLES = 128
"""Samples along one period where a pattern is blurred."""


@dataclass
class Appearance:
    """Colour and pattern of I items."""

    color: np.ndarray
    """(I, 3) float32 mean albedo, 0 … 1."""
    pattern: np.ndarray
    """(I,) int."""
    phase: np.ndarray
    """(I, 2) float32, in periods."""
    tilt: np.ndarray
    """(I,) float32 radians, small rotation of the pattern in its surface."""


def pattern_value(look: Appearance, item: np.ndarray, uv: np.ndarray, period_m: float) -> np.ndarray:
    """(n,) float32, +1 or −1 (0 where plain) of `item`'s pattern at surface position `uv`.

    Args:
        item: (n,) index of the item of each position.
        uv: (n, 2) metres along the surface, v upwards on upright ones.
    """
    return _unit_pattern(look.pattern[item], *_phases(look, item, uv, period_m))


def albedo(
    look: Appearance, item: np.ndarray, uv: np.ndarray, period_m: float, contrast: float
) -> np.ndarray:
    """(n, 3) float32 sharp surface colour, 0 … 1, at the positions `uv` of the items `item`."""
    return _colored(look, item, pattern_value(look, item, uv, period_m), contrast)


def blurred_albedo(
    look: Appearance, item: np.ndarray, uv: np.ndarray, period_m: float, contrast: float, sigma_m: float
) -> np.ndarray:
    """(n, 3) float32: `albedo` averaged over a Gaussian window, what a low-resolution scan records.

    What the window leaves of each pattern is computed (by a Fourier transform of one period), not
    assumed to be nothing.
    """
    tiles = np.stack([_blurred_tile(pattern, period_m, sigma_m) for pattern in range(TILES + 1)])
    places = [(phase * TILE_SAMPLES).astype(np.int64) for phase in _phases(look, item, uv, period_m)]
    places = [np.minimum(place, TILE_SAMPLES - 1) for place in places]
    return _colored(look, item, tiles[look.pattern[item], places[0], places[1]], contrast)


def _phases(
    look: Appearance, item: np.ndarray, uv: np.ndarray, period_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Position within one period along the two axes of the pattern, (n,) float32 in [0, 1) each."""
    period = np.where(look.pattern[item] == TILES, TILE_PERIOD_M, period_m).astype(np.float32)
    cos, sin = np.cos(look.tilt)[item], np.sin(look.tilt)[item]
    a = (cos * uv[:, 0] + sin * uv[:, 1]) / period + look.phase[item, 0]
    b = (cos * uv[:, 1] - sin * uv[:, 0]) / period + look.phase[item, 1]
    return a - np.floor(a), b - np.floor(b)


def _unit_pattern(pattern: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Value of each pattern at the phases a, b."""
    wave_a = np.where(a < 0.5, np.float32(1), np.float32(-1))
    wave_b = np.where(b < 0.5, np.float32(1), np.float32(-1))
    inside = (a - 0.5) ** 2 + (b - 0.5) ** 2 < DOT_RADIUS**2
    dots = np.where(inside, np.float32(1), np.float32(-1))
    checker = wave_a * wave_b
    return np.choose(pattern, [np.zeros_like(wave_a), wave_b, wave_a, checker, dots, checker])


def _blurred_tile(pattern: int, period_m: float, sigma_m: float) -> np.ndarray:
    """(TILE_SAMPLES, TILE_SAMPLES) float32: one period of a pattern after the Gaussian window."""
    phase = (np.arange(TILE_SAMPLES) + 0.5) / TILE_SAMPLES
    tile = _unit_pattern(np.array(pattern), phase[:, None], phase[None])
    sigma = sigma_m / (TILE_PERIOD_M if pattern == TILES else period_m)
    wave = np.fft.fftfreq(TILE_SAMPLES, 1 / TILE_SAMPLES)
    passed = np.exp(-2 * np.pi**2 * sigma**2 * (wave[:, None] ** 2 + wave[None] ** 2))
    return np.fft.ifft2(np.fft.fft2(tile) * passed).real.astype(np.float32)


def _colored(look: Appearance, item: np.ndarray, value: np.ndarray, contrast: float) -> np.ndarray:
    """(n, 3) float32: mean colour of each item, swung by its pattern's value."""
    swing = np.where(look.pattern[item] == TILES, TILE_AMPLITUDE, AMPLITUDE * contrast).astype(
        np.float32
    )
    return look.color[item] * (1 + swing * value)[:, None]
