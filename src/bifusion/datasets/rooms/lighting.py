"""The light in a generated room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AMBIENT = 0.6


@dataclass
class Lighting:
    """One lamp below the ceiling and ambient light."""

    lamp: np.ndarray
    """(3,) float32 metres."""
    brightness: float

    def shade(self, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """(n,) float32 factor on the albedo at `point` (n, 3) with unit `normal` (n, 3)."""
        to_lamp = self.lamp - point
        distance = np.sqrt((to_lamp * to_lamp).sum(axis=1))
        lambert = np.maximum((to_lamp * normal).sum(axis=1) / np.maximum(distance, 1e-3), 0)
        return self.brightness * (AMBIENT + (1 - AMBIENT) * lambert)


def draw_lighting(size_m: tuple[float, float], rng: np.random.Generator) -> Lighting:
    """A lamp somewhere over the middle of the room, and the room's own brightness."""
    lamp = np.array([*(rng.uniform(0.3, 0.7) * length for length in size_m), 2.3], dtype=np.float32)
    return Lighting(lamp, float(rng.uniform(0.8, 1.1)))
