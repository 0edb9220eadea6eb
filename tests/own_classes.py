"""A data set with seven classes of its own: labels.json and segment.npy, on the tiny rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bifusion.labels.files import labels_text
from bifusion.labels.label_set import LabelSet
from tiny_runs import make_tiny_data

NAMES = ("ceiling", "floor", "wall", "door", "desk", "chair", "machine")
COLORS = [(index, 2 * index, 200) for index in range(7)]
ROOMS7 = LabelSet.of("rooms7", NAMES, stuff_classes=(0, 1, 2), colors=COLORS)
FROM_SCANNET20 = {-1: -1, 0: 2, 1: 1, 6: 4, 4: 5}
"""Classes of the tiny rooms: wall, floor, table, chair."""


def make_own_data(root: Path, train: int = 2, val: int = 1, *, from_one: bool = False) -> Path:
    """Tiny rooms labelled with ROOMS7 alone; `from_one`: instances from 1, with 0 for none."""
    make_tiny_data(root, train, val)
    for path in root.glob("*/*/segment20.npy"):
        own = np.vectorize(FROM_SCANNET20.get)(np.load(path)).astype(np.int16)
        np.save(path.with_name("segment.npy"), own)
        path.unlink()
        path.with_name("segment200.npy").unlink()
        if from_one:
            instance = path.with_name("instance.npy")
            np.save(instance, np.load(instance) + 1)
    (root / "labels.json").write_text(labels_text(ROOMS7), encoding="utf-8")
    return root
