"""All metrics of a model on a data set, scene by scene, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bifusion.errors import InputError
from bifusion.evaluation.instance import (
    AnnotatedInstances,
    InstanceAP,
    annotated_instances,
    count_overlaps,
    summarise,
)
from bifusion.evaluation.panoptic import PanopticQuality
from bifusion.evaluation.semantic import SemanticConfusion, mean_of_present
from bifusion.labels.label_set import LabelSet, check_labels
from bifusion.types import SceneResult, SceneTruth

PANOPTIC_FIGURES = (
    "pq", "sq_mean", "rq_mean", "pq_things", "sq_things", "rq_things", "pq_stuff", "sq_stuff",
    "rq_stuff", "pq_dagger", "panoptic_miou", "pq_per_class",
)  # fmt: skip
SEMANTIC_FIGURES = ("miou", "acc", "acc_cls", "iou")


class MaskQuality:
    """Purity of predicted masks and coverage of annotated instances, whatever their classes.

    Purity: mean over predicted masks of the share of their annotated points that belong to the
    annotated instance they overlap most (masks without an annotated point say nothing and are left
    out). Coverage: mean over annotated instances of the best IoU with any predicted mask, 0 where
    none overlaps; the union counts annotated points only.
    """

    def __init__(self) -> None:
        self.purity_sum = self.coverage_sum = 0.0
        self.num_masks = self.num_instances = 0

    def add(
        self, counts: np.ndarray, annotated_sizes: np.ndarray, truth_sizes: np.ndarray
    ) -> np.ndarray:
        """Count one scene: (P, G) shared points, (P,) annotated points of masks, (G,) of instances.

        Returns (G,) the best IoU of each instance with any mask.
        """
        judged = annotated_sizes > 0
        counts, annotated_sizes = counts[judged], annotated_sizes[judged]
        best = counts.max(axis=1, initial=0)
        self.purity_sum += float((best / annotated_sizes).sum())
        self.num_masks += len(counts)
        iou = counts / (annotated_sizes[:, None] + truth_sizes[None] - counts)
        covered = iou.max(axis=0, initial=0.0)
        self.coverage_sum += float(covered.sum())
        self.num_instances += len(truth_sizes)
        return covered

    def merge(self, other: MaskQuality) -> None:
        """Adds what another one has counted."""
        self.purity_sum += other.purity_sum
        self.coverage_sum += other.coverage_sum
        self.num_masks += other.num_masks
        self.num_instances += other.num_instances

    def compute(self) -> dict[str, float]:
        """`mask_purity` and `mask_coverage` in [0, 1], NaN where nothing could be counted."""
        nan = float("nan")
        return {
            "mask_purity": self.purity_sum / self.num_masks if self.num_masks else nan,
            "mask_coverage": self.coverage_sum / self.num_instances if self.num_instances else nan,
        }


@dataclass(frozen=True)
class CoveredInstances:
    """How well the masks of a scene cover its G annotated instances."""

    point_index: np.ndarray
    """(N,) int64, instance of each point, G or more where it has none."""
    iou: np.ndarray
    """(G,) best IoU with any predicted mask, 0 where none overlaps."""


class Evaluator:
    """ScanNet's semantic, instance and panoptic metrics, and class-agnostic ones.

    Args:
        label_set: classes of results and annotation.
        panoptic_min_region: points below which an unmatched panoptic segment is no error (1 in the
            published tables).
        min_region: points below which instances do not count for AP (100 in ScanNet's protocol).
    """

    def __init__(self, label_set: LabelSet, panoptic_min_region: int = 1, min_region: int = 100) -> None:
        self.label_set = label_set
        self.num_scenes = 0
        self.semantic: SemanticConfusion | None = SemanticConfusion(label_set)
        self.panoptic: PanopticQuality | None = PanopticQuality(label_set, panoptic_min_region)
        self.instances = InstanceAP(label_set.num_things, min_region)
        self.agnostic = InstanceAP(1, min_region)
        self.quality = MaskQuality()
        self._thing_of_class = np.full(label_set.num_classes, -1)
        self._thing_of_class[list(label_set.thing_classes)] = np.arange(label_set.num_things)

    def add(self, result: SceneResult, truth: SceneTruth) -> CoveredInstances:
        """Count one scene; nothing of its point arrays is kept. Returns how its instances are covered.

        Raises:
            InputError: arrays of other shapes or types than `SceneResult` and `SceneTruth` say, a class
                that is none, an instance of stuff.
            ValueError: this result has a semantic or panoptic part and earlier ones had not (or the
                other way round).
        """
        check_result(result, self.label_set)
        check_truth(truth, result.num_points, self.label_set)
        self._add_semantic(result, truth)
        self._add_panoptic(result, truth)
        covered = self._add_instances(result, truth)
        self.num_scenes += 1
        return covered

    def merge(self, other: Evaluator) -> None:
        """Adds the scenes that another one has counted, after those that are there.

        Sums of floats depend on their order: the figures of many scenes are the same to the last digit
        only where one evaluator a scene is merged in the order of the scenes.

        Raises ValueError where one has a semantic or panoptic part and the other has not.
        """
        if other.num_scenes == 0:
            return
        for part in ("semantic", "panoptic"):
            setattr(self, part, self._merged(getattr(self, part), getattr(other, part), part))
        self.instances.merge(other.instances)
        self.agnostic.merge(other.agnostic)
        self.quality.merge(other.quality)
        self.num_scenes += other.num_scenes

    def _merged(self, metric: Any, added: Any, part: str) -> Any:
        if added is None and self.num_scenes == 0:
            return None
        if (metric is None) != (added is None):
            raise ValueError(f"some results have a {part} part and others have none")
        if metric is not None:
            metric.merge(added)
        return metric

    def _add_semantic(self, result: SceneResult, truth: SceneTruth) -> None:
        self.semantic = self._expected(self.semantic, result.semantic, result.name, "semantic")
        if self.semantic is not None and result.semantic is not None:
            self.semantic.add(result.semantic, truth.semantic)

    def _add_panoptic(self, result: SceneResult, truth: SceneTruth) -> None:
        panoptic = result.panoptic_semantic
        self.panoptic = self._expected(self.panoptic, panoptic, result.name, "panoptic")
        if self.panoptic is not None and panoptic is not None and result.panoptic_instance is not None:
            self.panoptic.add(panoptic, result.panoptic_instance, truth.semantic, truth.instance)

    def _expected(self, metric: Any, prediction: np.ndarray | None, scene: str, part: str) -> Any:
        """`metric`, or None where the model has no such head, which the first scene decides."""
        if prediction is None and self.num_scenes == 0:
            return None
        if (prediction is None) != (metric is None):
            raise ValueError(f"scene {scene}: some results have a {part} part and others have none")
        return metric

    def _add_instances(self, result: SceneResult, truth: SceneTruth) -> CoveredInstances:
        annotated = annotated_instances(truth, self.label_set)
        num_truths = len(annotated.sizes)
        # Void points in two groups: with an annotated class (G) and without (G+1).
        group = annotated.point_index + (truth.semantic < 0)
        counts = count_overlaps(result.masks, group, num_truths + 2)
        iou = self._add_quality(counts, annotated)
        counts = np.column_stack([counts[:, :num_truths], counts[:, num_truths:].sum(axis=1)])
        labels = result.labels.astype(np.int64)
        self.instances.add(
            counts,
            annotated,
            self._thing_of_class[annotated.labels],
            self._thing_of_class[labels],
            result.scores,
        )
        self.agnostic.add(
            counts, annotated, np.zeros_like(annotated.labels), np.zeros_like(labels), result.scores
        )
        return CoveredInstances(annotated.point_index, iou)

    def _add_quality(self, counts: np.ndarray, annotated: AnnotatedInstances) -> np.ndarray:
        num_truths = len(annotated.sizes)
        return self.quality.add(
            counts[:, :num_truths], counts[:, : num_truths + 1].sum(axis=1), annotated.sizes
        )

    def compute(self) -> dict[str, Any]:
        """All metrics so far, in [0, 1].

        Returns a flat dict: `miou`, `acc`, `acc_cls`, `iou` {class: IoU}; `ap`, `ap50`, `ap25`,
        `per_class` {thing class: [AP, AP50, AP25]}; the figures of `PanopticQuality.compute`;
        `agnostic_ap`, `agnostic_ap50`, `agnostic_ap25`, `mask_purity`, `mask_coverage`;
        `by_group` {group: {`miou`, `ap`, `ap50`, `ap25`}} where the label set has groups (ScanNet200's
        head, common, tail), else empty. A class that never occurs,
        and a figure without any class, is NaN. Figures of a head that the model does not have are
        None.
        """
        table = summarise(self.instances.compute())
        things = [self.label_set.class_names[c] for c in self.label_set.thing_classes]
        ap, ap50, ap25 = (mean_of_present(table[:, column]) for column in range(3))
        agnostic = summarise(self.agnostic.compute())[0].tolist()
        semantic: dict[str, Any] = dict.fromkeys(SEMANTIC_FIGURES)
        panoptic: dict[str, Any] = dict.fromkeys(PANOPTIC_FIGURES)
        if self.semantic is not None:
            semantic = self.semantic.compute()
        if self.panoptic is not None:
            panoptic = self.panoptic.compute()
        return {
            **semantic,
            "ap": ap,
            "ap50": ap50,
            "ap25": ap25,
            "per_class": dict(zip(things, table.tolist(), strict=True)),
            **panoptic,
            "agnostic_ap": agnostic[0],
            "agnostic_ap50": agnostic[1],
            "agnostic_ap25": agnostic[2],
            **self.quality.compute(),
            "by_group": self._by_group(table, semantic["iou"]),
        }

    def _by_group(
        self, table: np.ndarray, iou: dict[str, float] | None
    ) -> dict[str, dict[str, float | None]]:
        """Means over the classes of each group, from (num_things, 3) AP figures and IoU by class."""
        figures = {}
        for group, classes in self.label_set.groups.items():
            things = self._thing_of_class[list(classes)]
            ap = table[things[things >= 0]]
            names = [self.label_set.class_names[c] for c in classes]
            figures[group] = {
                "miou": None if iou is None else mean_of_present(np.array([iou[n] for n in names])),
                **{key: mean_of_present(ap[:, i]) for i, key in enumerate(("ap", "ap50", "ap25"))},
            }
        return figures


def check_truth(truth: SceneTruth, num_points: int, labels: LabelSet) -> None:
    """InputError unless the annotation is of whole numbers at `num_points` points, its classes those of
    `labels` or −1."""
    where = f"annotation of scene {truth.name}"
    for name in ("semantic", "instance"):
        _check(getattr(truth, name), f"{where}: {name}", (num_points,), "iu")
    check_labels(truth.semantic, labels, f"{where}: semantic")


def check_result(result: SceneResult, labels: LabelSet) -> None:
    """InputError unless the arrays of a result have the shapes and types that `SceneResult` says, and
    its instances are of things of `labels`: all of it would be counted as wrong predictions else."""
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
