"""The best any model on given superpoints can answer: each carries its points' most frequent label."""

from __future__ import annotations

import numpy as np

from bifusion.types import SceneResult, SceneTruth


def oracle_result(superpoint: np.ndarray, truth: SceneTruth) -> SceneResult:
    """Every superpoint with its most frequent class, every instance as the superpoints in which it is
    the most frequent one.

    Args:
        superpoint: (N,) int, 0 … S-1.
    """
    semantic = _majority(superpoint, truth.semantic)
    instance = _majority(superpoint, truth.instance)
    ids = np.unique(instance[instance >= 0])
    masks = instance[None] == ids[:, None]
    labels = [np.bincount(truth.semantic[truth.instance == i] + 1).argmax() - 1 for i in ids]
    return SceneResult(
        name=truth.name,
        num_points=len(superpoint),
        masks=np.packbits(masks, axis=1),
        labels=np.array(labels, dtype=np.int16),
        scores=np.ones(len(ids), dtype=np.float32),
        semantic=semantic.astype(np.int16),
        panoptic_semantic=semantic.astype(np.int16),
        panoptic_instance=instance.astype(np.int32),
    )


def _majority(superpoint: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(N,) most frequent `value` (≥ −1) in each point's superpoint."""
    width = int(value.max()) + 2
    counts = np.bincount(superpoint.astype(np.int64) * width + value + 1)
    table = np.pad(counts, (0, -len(counts) % width)).reshape(-1, width)
    return (table.argmax(axis=1) - 1)[superpoint]
