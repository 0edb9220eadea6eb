"""Evaluators on scenes small enough to count by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bifusion.errors import InputError
from bifusion.evaluation.evaluator import Evaluator
from bifusion.evaluation.instance import average_precision, count_overlaps
from bifusion.evaluation.panoptic import PanopticQuality
from bifusion.evaluation.semantic import SemanticConfusion, one_class_for_all
from bifusion.labels.label_set import LabelSet
from bifusion.types import SceneResult, SceneTruth

# Classes: 0 wall (stuff), 1 chair, 2 table.
LABELS = LabelSet.of("tiny", ("wall", "chair", "table"), (1, 5, 7), stuff_classes=(0,))
NAN = float("nan")


def truth(semantic: list[int], instance: list[int]) -> SceneTruth:
    return SceneTruth("room", np.array(semantic), np.array(instance))


def result(num_points: int, instances: list[tuple[list[int], int, float]], **parts) -> SceneResult:
    """`instances`: (points, class, score) each."""
    masks = np.zeros((len(instances), num_points), dtype=bool)
    for mask, (points, _, _) in zip(masks, instances, strict=True):
        mask[points] = True
    return SceneResult(
        name="room",
        num_points=num_points,
        masks=np.packbits(masks, axis=1),
        labels=np.array([label for _, label, _ in instances], dtype=np.int16),
        scores=np.array([score for _, _, score in instances], dtype=np.float32),
        **parts,
    )


def evaluate(result: SceneResult, truth: SceneTruth, min_region: int = 1) -> dict:
    evaluator = Evaluator(LABELS, min_region=min_region)
    evaluator.add(result, truth)
    return evaluator.compute()


# Ten points: chair 0 on 0–3, chair 1 on 4–7, two wall points.
CHAIRS = truth([1] * 8 + [0] * 2, [0] * 4 + [1] * 4 + [-1] * 2)
FIRST, SECOND = [0, 1, 2, 3], [4, 5, 6, 7]


# ------------------------------------------------------------------------------------- semantic


@pytest.mark.parametrize(
    ("iou", "told"),
    [
        ({"wall": 0.6, "chair": 0.0, "table": NAN}, "no class but wall is ever right, of 2"),
        ({"wall": 0.0, "chair": 0.0, "table": None}, "no class is ever right, of 2"),
        ({"wall": 0.6, "chair": 0.01}, None),
        ({"wall": 0.6, "chair": NAN}, None),
        ({}, None),
    ],
)
def test_a_model_that_says_one_class_for_all_is_told(iou, told) -> None:
    assert one_class_for_all(iou) == told


def test_semantic_iou_by_hand() -> None:
    confusion = SemanticConfusion(LABELS)
    confusion.add(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, -1]))
    figures = confusion.compute()
    assert figures["iou"]["wall"] == pytest.approx(1 / 2)
    assert figures["iou"]["chair"] == pytest.approx(2 / 3)
    assert figures["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert figures["acc"] == pytest.approx(3 / 4)
    assert figures["acc_cls"] == pytest.approx((1 + 2 / 3) / 2)


def test_semantic_class_never_seen_is_nan_but_predicted_only_is_zero() -> None:
    confusion = SemanticConfusion(LABELS)
    confusion.add(np.array([0, 2]), np.array([0, 0]))
    iou = confusion.compute()["iou"]
    assert math.isnan(iou["chair"])
    assert iou["table"] == 0.0


def test_semantic_split_adds_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    prediction, annotated = rng.integers(0, 3, 50), rng.integers(-1, 3, 50)
    seen = rng.random(50) < 0.4
    parts = [SemanticConfusion(LABELS) for _ in range(3)]
    for part, where in zip(parts, (seen, ~seen, None), strict=True):
        part.add(prediction, annotated, where)
    assert (parts[0].counts + parts[1].counts == parts[2].counts).all()
    assert 0 < parts[0].counts.sum() < parts[2].counts.sum()


def test_semantic_prediction_outside_the_classes_only_misses() -> None:
    confusion = SemanticConfusion(LABELS)
    confusion.add(np.array([0, -1, 7]), np.array([0, 0, 0]))
    assert confusion.compute()["iou"]["wall"] == pytest.approx(1 / 3)


def test_semantic_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        SemanticConfusion(LABELS).add(np.zeros(3, int), np.zeros(4, int))


# ------------------------------------------------------------------------------------- instance


def test_overlaps_count_every_mask_in_every_group() -> None:
    masks = np.packbits([[1, 1, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0]], axis=1)
    groups = np.array([0, 1, 1, 1, 1, 1, 1, 2, 2])
    assert count_overlaps(masks, groups, 3).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_perfect_masks_score_one_and_absent_classes_nan() -> None:
    figures = evaluate(result(10, [(FIRST, 1, 0.9), (SECOND, 1, 0.8)]), CHAIRS)
    assert figures["ap"] == figures["ap50"] == figures["ap25"] == 1.0
    assert figures["per_class"]["chair"] == [1.0, 1.0, 1.0]
    assert all(math.isnan(value) for value in figures["per_class"]["table"])
    assert figures["agnostic_ap"] == figures["mask_purity"] == figures["mask_coverage"] == 1.0


def test_ap_is_the_mean_over_nine_overlaps() -> None:
    # IoU 3/4 with the only instance: right at 0.5 … 0.7, wrong from 0.75 on, since IoU must exceed.
    one_chair = truth([1] * 4 + [0] * 4, [0] * 4 + [-1] * 4)
    ap, ap50, ap25 = evaluate(result(8, [([0, 1, 2], 1, 0.9)]), one_chair)["per_class"]["chair"]
    assert (ap50, ap25) == (1.0, 1.0)
    assert ap == pytest.approx(5 / 9)


def test_duplicate_is_a_false_positive() -> None:
    # Scores 0.9 (true) and 0.8 (duplicate); the other chair is missed. Curve: (P, R) = (1/2, 1/2)
    # at 0.8, (1, 1/2) at 0.9, then (1, 0): steps (0, 1/4, 1/4).
    figures = evaluate(result(10, [(FIRST, 1, 0.9), (FIRST, 1, 0.8)]), CHAIRS)
    assert figures["ap50"] == pytest.approx(0.5)
    # The duplicate above the true positive takes its score: the same curve.
    swapped = evaluate(result(10, [(FIRST, 1, 0.8), (FIRST, 1, 0.9)]), CHAIRS)
    assert swapped["ap50"] == pytest.approx(0.5)


def test_duplicate_costs_precision_when_it_outranks_another_instance() -> None:
    # 0.9 true, 0.8 duplicate, 0.7 true: (P, R) = (2/3, 1) (1/2, 1/2) (1, 1/2) (1, 0), steps
    # 1/4, 1/4, 1/4, 1/4.
    masks = [(FIRST, 1, 0.9), (FIRST, 1, 0.8), (SECOND, 1, 0.7)]
    assert evaluate(result(10, masks), CHAIRS)["ap50"] == pytest.approx((2 / 3 + 1 / 2 + 1 + 1) / 4)


def test_a_score_that_is_no_number_is_less_than_any_other() -> None:
    """False positives of a model that has diverged, and the better of two masks of one instance."""
    for stray in ([8, 9], FIRST):
        found = [(FIRST, 1, 0.9), (SECOND, 1, 0.5)]
        broken, least = result(10, [*found, (stray, 1, NAN)]), result(10, [*found, (stray, 1, 0.1)])
        assert evaluate(broken, CHAIRS)["ap"] == evaluate(least, CHAIRS)["ap"]


def test_prediction_on_void_is_ignored_and_on_another_class_is_not() -> None:
    table = truth([1] * 4 + [2] * 4 + [-1] * 4, [0] * 4 + [1] * 4 + [-1] * 4)
    right = (FIRST, 1, 0.5)
    assert evaluate(result(12, [([8, 9, 10, 11], 1, 0.9), right]), table)["per_class"]["chair"][1] == 1.0
    # On the table: (P, R) = (1/2, 1) (0, 0) (1, 0), steps 1/2, 1/2, 0.
    on_table = evaluate(result(12, [([4, 5, 6, 7], 1, 0.9), right]), table)
    assert on_table["per_class"]["chair"][1] == pytest.approx(1 / 4)


def test_small_instances_and_masks_do_not_count() -> None:
    figures = evaluate(result(10, [(FIRST, 1, 0.9), ([8], 1, 0.95)]), CHAIRS, min_region=4)
    assert figures["per_class"]["chair"][1] == pytest.approx(0.5)
    nothing_large = evaluate(result(10, [(FIRST, 1, 0.9)]), CHAIRS, min_region=5)
    assert math.isnan(nothing_large["ap"])


def test_right_mask_with_a_wrong_class_counts_for_class_agnostic_ap_alone() -> None:
    figures = evaluate(result(10, [(FIRST, 2, 0.9), (SECOND, 2, 0.8)]), CHAIRS)
    assert figures["ap"] == 0.0
    assert figures["agnostic_ap50"] == 1.0


def test_instance_with_two_classes_is_one_for_each() -> None:
    mixed = truth([1] * 4 + [2] * 4, [0] * 8)
    figures = evaluate(result(8, [(FIRST, 1, 0.9), (SECOND, 2, 0.8)]), mixed)
    assert figures["ap50"] == 1.0


def test_precision_recall_ties_form_one_point() -> None:
    # One true and one false at the same score: (P, R) = (1/2, 1) (1, 0), steps 1/2, 1/2.
    assert average_precision([0.5], [0.5], missed=0) == pytest.approx(0.75)
    assert average_precision([], [0.5], missed=3) == 0.0


# ------------------------------------------------------------------------------------- mask quality


def test_purity_and_coverage_by_hand() -> None:
    # Mask 0–4 lies to 4/5 in chair 0 and has IoU 4/5 with it and 1/8 with chair 1.
    figures = evaluate(result(10, [([0, 1, 2, 3, 4], 1, 0.9)]), CHAIRS)
    assert figures["mask_purity"] == pytest.approx(4 / 5)
    assert figures["mask_coverage"] == pytest.approx((4 / 5 + 1 / 8) / 2)


def test_purity_leaves_unannotated_points_out_and_counts_walls() -> None:
    room = truth([1] * 4 + [0] * 2 + [-1] * 4, [0] * 4 + [-1] * 6)
    figures = evaluate(result(10, [(list(range(10)), 1, 0.9), ([8, 9], 1, 0.8)]), room)
    assert figures["mask_purity"] == pytest.approx(4 / 6)


# ------------------------------------------------------------------------------------- panoptic


def test_panoptic_by_hand() -> None:
    # Wall: IoU 2/3. Chair 0: IoU 3/4. Chair 1 is found as two halves, neither above IoU 0.5.
    semantic = np.array([1, 1, 1, 0, 1, 1, 1, 1, 0, 0])
    instance = np.array([0, 0, 0, -1, 1, 1, 2, 2, -1, -1])
    quality = PanopticQuality(LABELS)
    quality.add(semantic, instance, CHAIRS.semantic, CHAIRS.instance)
    figures = quality.compute()
    chair_rq = 1 / (1 + 0.5 * 2 + 0.5 * 1)
    assert figures["pq_stuff"] == pytest.approx(2 / 3)
    assert figures["pq_per_class"]["chair"] == pytest.approx(3 / 4 * chair_rq)
    assert math.isnan(figures["pq_per_class"]["table"])
    assert figures["pq_things"] == pytest.approx(3 / 4 * chair_rq / 2)
    assert figures["pq"] == pytest.approx((2 / 3 + 3 / 4 * chair_rq) / 3)
    assert figures["pq_dagger"] == pytest.approx((2 / 3 + 3 / 4 * chair_rq) / 3)


def test_panoptic_minimum_region_forgives_small_unmatched_segments() -> None:
    semantic = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 2])
    instance = np.array([0, 0, 0, 0, 1, 1, 1, 1, -1, 5])
    strict, lenient = PanopticQuality(LABELS, min_region=1), PanopticQuality(LABELS, min_region=2)
    for quality in (strict, lenient):
        quality.add(semantic, instance, CHAIRS.semantic, CHAIRS.instance)
    assert strict.unmatched_predictions.tolist() == [1, 0, 1]
    assert lenient.unmatched_predictions.tolist() == [0, 0, 0]


def test_panoptic_leaves_unannotated_points_out() -> None:
    semantic, instance = np.array([1, 1, 1, 1]), np.array([0, 0, 0, 0])
    quality = PanopticQuality(LABELS)
    quality.add(semantic, instance, np.array([1, 1, -1, -1]), np.array([3, 3, -1, -1]))
    assert quality.compute()["pq_per_class"]["chair"] == 1.0


# ------------------------------------------------------------------------------------- whole scenes


def full_result(num_points: int, semantic: list[int], instance: list[int], instances=()) -> SceneResult:
    return result(
        num_points,
        list(instances),
        semantic=np.array(semantic),
        panoptic_semantic=np.array(semantic),
        panoptic_instance=np.array(instance),
    )


@pytest.mark.filterwarnings("error")
def test_scene_without_prediction() -> None:
    figures = evaluate(full_result(10, [0] * 10, [-1] * 10), CHAIRS)
    assert figures["ap"] == figures["agnostic_ap"] == figures["mask_coverage"] == 0.0
    assert math.isnan(figures["mask_purity"])
    assert figures["miou"] == pytest.approx(0.1)


@pytest.mark.filterwarnings("error")
def test_scene_without_annotation() -> None:
    masks = [([0, 1], 1, 0.9)]
    figures = evaluate(full_result(4, [1] * 4, [0] * 4, masks), truth([-1] * 4, [-1] * 4))
    for name in ("miou", "acc", "acc_cls", "ap", "pq", "agnostic_ap", "mask_purity", "mask_coverage"):
        assert math.isnan(figures[name]), name


@pytest.mark.filterwarnings("error")
def test_scene_of_one_class_and_one_point() -> None:
    figures = evaluate(full_result(1, [0], [-1]), truth([0], [-1]))
    assert figures["miou"] == figures["pq_stuff"] == 1.0
    assert math.isnan(figures["ap"])


def test_model_without_semantic_head_has_none_there() -> None:
    figures = evaluate(result(10, [(FIRST, 1, 0.9)]), CHAIRS)
    assert figures["miou"] is figures["iou"] is figures["pq"] is figures["pq_per_class"] is None
    assert figures["ap50"] == pytest.approx(0.5)


def test_results_with_and_without_semantic_do_not_mix() -> None:
    evaluator = Evaluator(LABELS)
    evaluator.add(full_result(10, [0] * 10, [-1] * 10), CHAIRS)
    with pytest.raises(ValueError, match="semantic"):
        evaluator.add(result(10, []), CHAIRS)


def test_number_of_points_must_agree() -> None:
    with pytest.raises(ValueError, match="room"):
        Evaluator(LABELS).add(result(9, []), CHAIRS)


def test_scenes_accumulate() -> None:
    evaluator = Evaluator(LABELS, min_region=1)
    evaluator.add(result(10, [(FIRST, 1, 0.9), (SECOND, 1, 0.8)]), CHAIRS)
    evaluator.add(result(10, []), CHAIRS)
    figures = evaluator.compute()
    # Two of four found, none wrong: (P, R) = (1, 1/2) (1, 1/4) (1, 0), area 1/2.
    assert figures["ap50"] == pytest.approx(0.5)
    assert figures["mask_coverage"] == pytest.approx(0.5)


def test_label_set_without_stuff_has_no_figures_of_stuff() -> None:
    labels = LabelSet.of("things", ("chair", "table"))
    metric = PanopticQuality(labels)
    classes, instances = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    metric.add(classes, instances, classes, instances)
    figures = metric.compute()
    assert figures["pq"] == figures["pq_things"] == figures["pq_dagger"] == 1.0
    assert math.isnan(figures["pq_stuff"]) and math.isnan(figures["rq_stuff"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": np.eye(2, 10, dtype=bool)}, r"masks: bool .*shape \(2, 2\); numpy.packbits"),
        ({"masks": np.eye(2, 10, dtype=np.uint8)}, r"masks: uint8 of shape \(2, 10\)"),
        ({"labels": np.array([-1, 1])}, "instance 0 has the label -1; expected a thing.*: one of 1, 2"),
        ({"labels": np.array([1, 0])}, "instance 1 has the label 0"),
        pytest.param(
            {"labels": [1, 2]},
            "labels: is a list; expected a numpy array",
            marks=pytest.mark.wrong_types,
        ),
        ({"scores": np.ones((2, 1))}, r"scores: float64 of shape \(2, 1\); expected .* \(2,\)"),
        ({"semantic": np.full(10, 0.7)}, "semantic: float64 .*expected whole numbers"),
        ({"panoptic_semantic": np.zeros(10, int)}, "expected both panoptic_semantic and"),
    ],
)
def test_a_result_of_another_layout_is_told(changes, message) -> None:
    given = dataclasses.replace(result(10, [(FIRST, 1, 0.9), (SECOND, 1, 0.8)]), **changes)
    evaluator = Evaluator(LABELS, min_region=1)
    with pytest.raises(InputError, match=f"result of scene room: {message}"):
        evaluator.add(given, CHAIRS)
    assert evaluator.num_scenes == 0


@pytest.mark.parametrize(
    ("semantic", "message"),
    [
        (CHAIRS.semantic + 2, r"labels go from 2 to 3; expected -1 \(unlabelled\) to 2 \(table\)"),
        (CHAIRS.semantic + 0.5, "float64 of shape .*expected whole numbers"),
        (CHAIRS.semantic[:, None], r"int64 of shape \(10, 1\); expected"),
    ],
)
def test_annotation_of_another_layout_is_told(semantic, message) -> None:
    given = SceneTruth("room", semantic, CHAIRS.instance)
    with pytest.raises(InputError, match=f"annotation of scene room: semantic: {message}"):
        Evaluator(LABELS).add(result(10, [(FIRST, 1, 0.9)]), given)
