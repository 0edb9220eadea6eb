"""Fixed colours of classes and instances, the same in every file, picture and report."""

from __future__ import annotations

import colorsys

import numpy as np

from bifusion.labels.label_set import LabelSet

NONE_COLOR = (64, 64, 64)
"""RGB of points without a class or an instance."""

GOLDEN_RATIO = 0.618033988749895
"""Steps of this share of the colour circle keep any number of hues apart."""


def distinct_color(index: int) -> tuple[int, int, int]:
    """RGB of the `index`-th (≥ 0) of an endless row of colours, neighbours far apart."""
    saturation = (0.60, 0.85, 0.45)[index % 3]
    value = (0.95, 0.75, 0.85, 0.60)[index // 3 % 4]
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def class_palette(label_set: LabelSet) -> np.ndarray:
    """(C, 3) uint8 RGB: each class's own colour, or one made from its position."""
    colors = [one.color or distinct_color(index) for index, one in enumerate(label_set.classes)]
    return np.array(colors, dtype=np.uint8)


def color_classes(semantic: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """(N, 3) uint8 colours of (N,) classes; NONE_COLOR where the class is negative."""
    colors = np.vstack([class_palette(label_set), np.array([NONE_COLOR], dtype=np.uint8)])
    return colors[np.where(semantic < 0, label_set.num_classes, semantic)]


def color_instances(instance: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 colours of (N,) instance ids; NONE_COLOR where the id is negative.

    An id's colour depends on the id alone.
    """
    ids, rows = np.unique(instance, return_inverse=True)
    table = [NONE_COLOR if identity < 0 else distinct_color(identity) for identity in ids.tolist()]
    return np.array(table, dtype=np.uint8).reshape(-1, 3)[rows]
