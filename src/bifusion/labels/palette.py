"""Fixed colours of classes and instances, the same in every file, picture and report."""

from __future__ import annotations

import colorsys

import numpy as np

from bifusion.labels.sets import SCANNET20, LabelSet

NONE_COLOR = (64, 64, 64)
"""RGB of points without a class or an instance."""

SCANNET20_COLORS = {
    "wall": (174, 199, 232),
    "floor": (152, 223, 138),
    "cabinet": (31, 119, 180),
    "bed": (255, 187, 120),
    "chair": (188, 189, 34),
    "sofa": (140, 86, 75),
    "table": (255, 152, 150),
    "door": (214, 39, 40),
    "window": (197, 176, 213),
    "bookshelf": (148, 103, 189),
    "picture": (196, 156, 148),
    "counter": (23, 190, 207),
    "desk": (247, 182, 210),
    "curtain": (219, 219, 141),
    "refrigerator": (255, 127, 14),
    "shower curtain": (158, 218, 229),
    "toilet": (44, 160, 44),
    "sink": (112, 128, 144),
    "bathtub": (227, 119, 194),
    "otherfurniture": (82, 84, 163),
}
"""The ScanNet benchmark's own colours."""

GOLDEN_RATIO = 0.618033988749895
"""Steps of this share of the colour circle keep any number of hues apart."""


def distinct_color(index: int) -> tuple[int, int, int]:
    """RGB of the `index`-th (≥ 0) of an endless row of colours, neighbours far apart."""
    saturation = (0.60, 0.85, 0.45)[index % 3]
    value = (0.95, 0.75, 0.85, 0.60)[index // 3 % 4]
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def class_palette(label_set: LabelSet) -> np.ndarray:
    """(C, 3) uint8 RGB: ScanNet's colours for its 20 classes, generated ones for other label sets."""
    if label_set.class_names == SCANNET20.class_names:
        return np.array([SCANNET20_COLORS[name] for name in label_set.class_names], dtype=np.uint8)
    return np.array([distinct_color(index) for index in range(label_set.num_classes)], dtype=np.uint8)


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
