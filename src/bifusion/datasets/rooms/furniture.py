"""Furniture as composites of boxes, in a frame of its own.

Each function draws a piece's sizes and returns its boxes, (K, 6): x0, x1, y0, y1, z0, z1 in metres;
the piece is centred on x = 0, stands on z = 0 and its back is at y = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Boxes = np.ndarray


def _legs(x: float, y0: float, y1: float, height: float, thick: float = 0.06) -> list[tuple]:
    """Four legs under a rectangle |x| ≤ x, y0 ≤ y ≤ y1."""
    corners = [(-x, y0), (x - thick, y0), (-x, y1 - thick), (x - thick, y1 - thick)]
    return [(a, a + thick, b, b + thick, 0, height) for a, b in corners]


def bed(rng: np.random.Generator) -> Boxes:
    """Mattress with a headboard."""
    x, y, z = rng.uniform(0.5, 0.8), rng.uniform(1.9, 2.05), rng.uniform(0.4, 0.52)
    return np.array([(-x, x, 0.06, y, 0, z), (-x, x, 0, 0.06, 0, rng.uniform(0.8, 0.95))])


def chair(rng: np.random.Generator) -> Boxes:
    """Seat, back rest, four legs."""
    x, y, z = rng.uniform(0.2, 0.25), rng.uniform(0.42, 0.5), rng.uniform(0.42, 0.48)
    seat = [(-x, x, 0, y, z - 0.06, z), (-x, x, 0, 0.06, z, rng.uniform(0.82, 0.95))]
    return np.array(seat + _legs(x, 0, y, z - 0.06, 0.05))


def sofa(rng: np.random.Generator) -> Boxes:
    """Seat, back, two arms."""
    x, y, z = rng.uniform(0.7, 1.0), rng.uniform(0.75, 0.9), rng.uniform(0.38, 0.45)
    top, arm = rng.uniform(0.75, 0.9), rng.uniform(0.15, 0.22)
    return np.array(
        [
            (-x + arm, x - arm, 0.2, y - 0.03, 0, z),
            (-x, x, 0, 0.2, 0, top),
            (-x, -x + arm, 0.2, y, 0, z + 0.2),
            (x - arm, x, 0.2, y, 0, z + 0.2),
        ]
    )


def table(rng: np.random.Generator) -> Boxes:
    """A top on four legs."""
    x, y, z = rng.uniform(0.45, 0.65), rng.uniform(0.7, 0.9), rng.uniform(0.7, 0.76)
    return np.array([(-x, x, 0, y, z - 0.05, z), *_legs(x - 0.04, 0.04, y - 0.04, z - 0.05)])


def desk(rng: np.random.Generator) -> Boxes:
    """A top on a side panel and a block of drawers, with a back panel."""
    x, y, z = rng.uniform(0.55, 0.75), rng.uniform(0.55, 0.7), rng.uniform(0.7, 0.76)
    drawers = rng.uniform(0.35, 0.45)
    return np.array(
        [
            (-x, x, 0, y, z - 0.05, z),
            (-x, -x + 0.06, 0, y, 0, z - 0.05),
            (x - drawers, x, 0, y - 0.04, 0, z - 0.05),
            (-x, x, 0, 0.05, 0.3, z - 0.05),
        ]
    )


def counter(rng: np.random.Generator) -> Boxes:
    """A long solid block with an overhanging slab."""
    x, y, z = rng.uniform(0.7, 1.0), rng.uniform(0.55, 0.65), rng.uniform(0.86, 0.93)
    return np.array([(-x, x, 0, y - 0.05, 0, z - 0.05), (-x - 0.02, x + 0.02, 0, y, z - 0.05, z)])


def toilet(rng: np.random.Generator) -> Boxes:
    """Bowl and cistern."""
    x, y, z = rng.uniform(0.18, 0.21), rng.uniform(0.62, 0.7), rng.uniform(0.38, 0.43)
    return np.array([(-x, x, 0.18, y, 0, z), (-x - 0.03, x + 0.03, 0, 0.2, 0, rng.uniform(0.75, 0.85))])


def sink(rng: np.random.Generator) -> Boxes:
    """A basin (four rims around a lower bottom) on a column."""
    x, y, z = rng.uniform(0.27, 0.33), rng.uniform(0.45, 0.52), rng.uniform(0.8, 0.88)
    rim, low = 0.07, z - 0.18
    return np.array(
        [
            (-0.1, 0.1, 0.05, 0.25, 0, low),
            (-x, x, 0, y, low, z - 0.1),
            *_rims(x, y, z - 0.1, z, rim),
        ]
    )


def bathtub(rng: np.random.Generator) -> Boxes:
    """A long hollow tub."""
    x, y, z = rng.uniform(0.7, 0.8), rng.uniform(0.65, 0.75), rng.uniform(0.5, 0.58)
    return np.array([(-x, x, 0, y, 0, 0.15), *_rims(x, y, 0.15, z, 0.08)])


def _rims(x: float, y: float, z0: float, z1: float, rim: float) -> list[tuple]:
    """Four low walls around |x| ≤ x, 0 ≤ y ≤ y."""
    return [
        (-x, x, 0, rim, z0, z1),
        (-x, x, y - rim, y, z0, z1),
        (-x, -x + rim, rim, y - rim, z0, z1),
        (x - rim, x, rim, y - rim, z0, z1),
    ]


def shower_curtain(rng: np.random.Generator) -> Boxes:
    """A tall thin sheet that stands out from the wall, hung from a rod."""
    y, z = rng.uniform(0.7, 1.0), rng.uniform(1.85, 2.0)
    return np.array(
        [(-0.03, 0.03, 0.02, y, rng.uniform(0.1, 0.25), z), (-0.04, 0.04, 0, y, z, z + 0.06)]
    )


def panel(rng: np.random.Generator) -> Boxes:
    """A flat upright panel on a wall: the shape of every class of the texture group "panels"."""
    x, thick = rng.uniform(0.35, 0.5), rng.uniform(0.05, 0.08)
    z0 = rng.uniform(0.98, 1.08)
    return np.array([(-x, x, 0, thick, z0, z0 + rng.uniform(0.8, 1.05))])


def cupboard(rng: np.random.Generator) -> Boxes:
    """An upright box on the floor: the shape of every class of the texture group "boxes"."""
    x, y = rng.uniform(0.3, 0.45), rng.uniform(0.4, 0.6)
    return np.array([(-x, x, 0, y, 0, rng.uniform(1.1, 1.6))])


FURNITURE: dict[str, Callable[[np.random.Generator], Boxes]] = {
    "bed": bed, "chair": chair, "sofa": sofa, "table": table, "desk": desk, "counter": counter,
    "toilet": toilet, "sink": sink, "bathtub": bathtub, "shower curtain": shower_curtain,
}  # fmt: skip
"""A maker for each of `config.GEOMETRY_CLASSES`."""
