"""Lenses that distort: pinhole cameras are read, and what bends rays by more than a little is refused.

Polynomials as OpenCV has them (Brown, "Decentering Distortion of Lenses", 1966): k1, k2, k3, and of
nerfstudio k4, radial, p1, p2 tangential.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bifusion.errors import InputError

PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
BENDING = ("OPENCV", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV")
"""Camera models, by COLMAP's names, whose lens is a polynomial."""
MOST = 0.01
"""Share of the width by which a lens may move a pixel; beyond it labels land on neighbouring things."""
LEAST_PX = 0.5
"""What nobody notices."""
PLACES = 65
"""Along each side of a picture at which a lens is looked at."""


def check_lens(
    K: np.ndarray, size: tuple[int, int], coefficients: Sequence[float], where: str
) -> str | None:
    """A note on a lens that distorts a little, None for one that does not.

    Args:
        K: (3, 3) pinhole matrix.
        size: width, height of its pictures.
        coefficients: k1, k2, p1, p2 and, if there are more, k3, k4.
    Raises:
        InputError: it moves pixels by more than MOST of the width, or no number.
    """
    k1, k2, p1, p2, k3, k4 = (*coefficients, 0.0, 0.0)[:6]
    # everywhere, not at the corners alone: terms of unlike sign may cancel there
    column, row = (np.linspace(-0.5, length - 0.5, PLACES) for length in size)
    x, y = np.meshgrid((column - K[0, 2]) / K[0, 0], (row - K[1, 2]) / K[1, 1])
    with np.errstate(over="ignore", invalid="ignore"):
        r2 = x * x + y * y
        radial = k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
        across = (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)) * K[0, 0]
        down = (y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y) * K[1, 1]
        moved = float(np.hypot(across, down).max())
    if not moved <= MOST * size[0]:
        raise InputError(
            f"{where}: its lens moves pixels by up to {moved:.0f}, which is not undone here; undistort "
            "the pictures first (COLMAP's image_undistorter does)"
        )
    if moved <= LEAST_PX:
        return None
    return f"the lens moves pixels by up to {moved:.1f}, which is not undone"
