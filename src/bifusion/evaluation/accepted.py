"""What an evaluator takes: results and annotation, of models here or of anybody's, in the types of ours.

A mask of another layout, a label that counts from 1 or a class of stuff would be counted as a wrong
prediction, and nobody would know.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet, check_labels
from bifusion.types import SceneResult, SceneTruth


def check_truth(truth: SceneTruth, num_points: int, labels: LabelSet) -> None:
    """InputError unless the annotation is of whole numbers at `num_points` points, its classes those of
    `labels` or −1."""
    where = f"annotation of scene {truth.name}"
    for name in ("semantic", "instance"):
        _check(getattr(truth, name), f"{where}: {name}", (num_points,), "iu")
    check_labels(truth.semantic, labels, f"{where}: semantic")


def check_result(result: SceneResult, labels: LabelSet) -> None:
    """InputError unless the arrays of a result have the shapes and types that `SceneResult` says, and
    its instances are of things of `labels`."""
    where, points = f"result of scene {result.name}", result.num_points
    candidates = len(result.masks) if isinstance(result.masks, np.ndarray) else 0
    packed = "; numpy.packbits(masks, axis=1) makes them of (P, N) bool"
    _check(result.masks, f"{where}: masks", (candidates, -(-points // 8)), "u", packed)
    if result.masks.dtype != np.uint8:
        raise InputError(f"{where}: masks hold {result.masks.dtype}; expected uint8{packed}")
    _check(result.labels, f"{where}: labels", (candidates,), "iu")
    _check(result.scores, f"{where}: scores", (candidates,), "f")
    wrong = ~np.isin(result.labels, labels.thing_classes)
    if wrong.any():
        raise InputError(
            f"{where}: instance {int(wrong.argmax())} has the label {result.labels[wrong.argmax()]}; "
            f"expected a thing's position in {labels.describe()}: one of "
            f"{', '.join(map(str, labels.thing_classes))}"
        )
    if (result.panoptic_semantic is None) != (result.panoptic_instance is None):
        raise InputError(f"{where}: expected both panoptic_semantic and panoptic_instance, or none")
    for name in ("semantic", "panoptic_semantic", "panoptic_instance"):
        if getattr(result, name) is not None:
            _check(getattr(result, name), f"{where}: {name}", (points,), "iu")


def _check(array: Any, where: str, shape: tuple[int, ...], kinds: str, hint: str = "") -> None:
    """InputError unless it is an array of this shape and one of these kinds of numbers (numpy's)."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"{where}: is a {type(array).__name__}; expected a numpy array{hint}")
    if array.shape != shape or array.dtype.kind not in kinds:
        what = "numbers" if "f" in kinds else "whole numbers"
        raise InputError(
            f"{where}: {array.dtype} of shape {array.shape}; expected {what} of shape {shape}{hint}"
        )
