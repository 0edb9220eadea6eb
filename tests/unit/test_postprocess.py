from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import bifusion.models.postprocess as postprocessing
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import SCANNET20
from bifusion.models.postprocess import (
    PostprocessConfig,
    matrix_nms,
    pack_by_product,
    pack_point_masks,
    postprocess,
)
from bifusion.types import LayerPrediction, Prediction, SceneResult
from small_batches import batch_of_superpoints

PLAIN = PostprocessConfig(object_normalization=False, min_points=0)
FLOOR = 1


def predict(
    sizes: list[int],
    masks: list[list[float]],
    classes: list[dict[int, float]],
    label_set: LabelSet = SCANNET20,
    config: PostprocessConfig = PLAIN,
    scores: list[float] | None = None,
    stuff: int = FLOOR,
) -> SceneResult:
    """One scene: points of each superpoint, mask logits of each query, its class probabilities.

    What a query's probabilities lack is "no object"; every superpoint's semantic class is `stuff`.
    """
    result = postprocess(
        *make_prediction(sizes, masks, classes, label_set, scores, stuff), label_set, config
    )
    return result[0]


def make_prediction(sizes, masks, classes, label_set, scores, stuff):
    probabilities = torch.zeros(len(classes), label_set.num_things + 1)
    for q, given in enumerate(classes):
        for label, probability in given.items():
            probabilities[q, label] = probability
        probabilities[q, -1] = 1 - sum(given.values())
    semantic = torch.zeros(len(sizes), label_set.num_classes + 1)
    semantic[:, stuff] = 1.0
    prediction = Prediction(
        layers=[
            LayerPrediction(
                class_logits=[probabilities.log()],
                mask_logits=[torch.tensor(masks).reshape(len(classes), len(sizes))],
                scores=None if scores is None else [torch.tensor(scores)[:, None]],
            )
        ],
        semantic_logits=[semantic],
        query_superpoints=[torch.arange(len(sizes))],
        superpoint_features=torch.zeros(len(sizes), 1),
    )
    superpoint = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return prediction, batch_of_superpoints([superpoint])


def test_an_instance_at_its_points():
    result = predict([2, 1, 3], [[9, -9, 9]], [{4: 0.8}])
    assert result.point_masks().tolist() == [[True, True, False, True, True, True]]
    assert result.labels.tolist() == [SCANNET20.thing_classes[4]]
    assert result.scores.tolist() == pytest.approx([0.8])
    assert result.semantic.tolist() == [FLOOR] * 6
    assert result.panoptic_semantic.tolist() == [6, 6, 1, 6, 6, 6]
    assert result.panoptic_instance.tolist() == [0, 0, -1, 0, 0, 0]


def test_types_of_a_result():
    result = predict([2, 1, 3], [[9, -9, 9]], [{4: 0.8}])
    assert result.masks.dtype == np.uint8
    assert result.labels.dtype == result.semantic.dtype == result.panoptic_semantic.dtype == np.int16
    assert result.scores.dtype == np.float32
    assert result.panoptic_instance.dtype == np.int32


def test_no_instance_left():
    result = predict([200, 50], [[-9, -9]], [{4: 0.9}], config=PostprocessConfig())
    assert result.masks.shape == (0, 32)
    assert result.point_masks().shape == (0, 250)
    assert result.labels.shape == result.scores.shape == (0,)
    assert (result.panoptic_instance == -1).all()
    assert (result.panoptic_semantic == FLOOR).all()


def test_scene_of_one_superpoint_with_one_query():
    result = predict([1], [[5.0]], [{0: 0.9}])
    assert result.point_masks().tolist() == [[True]]


def test_minimum_of_points_is_exceeded_not_met():
    config = PostprocessConfig(min_points=100)
    masks = [[9.0, -9.0], [-9.0, 9.0]]
    result = predict([100, 101], masks, [{0: 0.9}, {1: 0.9}], config=config)
    assert result.labels.tolist() == [SCANNET20.thing_classes[1]]


def test_top_k_keeps_the_likeliest_pairs():
    config = PostprocessConfig(min_points=0, top_k=2)
    result = predict([5, 5], [[9.0, -9.0], [-9.0, 9.0]], [{0: 0.6, 3: 0.3}, {1: 0.2}], config=config)
    assert result.labels.tolist() == [2, 5]


def test_score_head_scales_scores():
    result = predict([5, 5], [[9.0, -9.0], [-9.0, 9.0]], [{0: 0.9}, {1: 0.8}], scores=[0.5, 1.0])
    assert result.scores.tolist() == pytest.approx([0.8, 0.45])
    assert result.labels.tolist() == [3, 2]


def test_object_normalisation_multiplies_by_the_mean_probability_inside():
    config = PostprocessConfig(min_points=0)
    result = predict([5, 5, 5], [[2.0, 1.0, -3.0]], [{0: 0.9}], config=config)
    inside = torch.tensor([2.0, 1.0]).sigmoid().mean().item()
    assert result.scores.tolist() == pytest.approx([0.9 * inside], rel=1e-5)


def test_superpoint_threshold():
    just_in, just_out = torch.tensor([0.41, 0.39]).logit().tolist()
    result = predict([1, 1, 1], [[just_in, just_out, 3.0]], [{0: 0.9}])
    assert result.point_masks().tolist() == [[True, False, True]]


# --------------------------------------------------------------------------------------------- nms


def soft(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def test_nms_decays_with_the_overlap_of_a_better_mask():
    masks = soft([1.0, 1, 0, 0], [1, 0, 0, 0])
    scores, _, _ = matrix_nms(torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), masks)
    assert scores.tolist() == pytest.approx([0.9, 0.4])


def test_nms_spares_other_classes():
    masks = soft([1.0, 1], [1, 1])
    scores, _, _ = matrix_nms(torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), masks)
    assert scores.tolist() == pytest.approx([0.9, 0.8])


def test_nms_of_identical_and_empty_masks_is_finite():
    masks = soft([1.0, 1], [1, 1], [1, 1], [0, 0], [0, 0])
    scores, labels, _ = matrix_nms(torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.zeros(5).long(), masks)
    assert scores.tolist() == pytest.approx([0.9, 0.6, 0.5, 0.0, 0.0])
    assert len(labels) == 5


def test_nms_of_nothing():
    scores, labels, masks = matrix_nms(torch.zeros(0), torch.zeros(0).long(), torch.zeros(0, 3))
    assert (len(scores), len(labels), masks.shape) == (0, 0, (0, 3))


def test_scores_descend_without_nms_too():
    config = PostprocessConfig(min_points=0, matrix_nms=False)
    masks = [[0.1, -9.0], [-9.0, 9.0]]
    result = predict([5, 5], masks, [{0: 0.9}, {1: 0.8}], config=config)
    assert result.labels.tolist() == [3, 2]
    assert (np.diff(result.scores) <= 0).all()


# ---------------------------------------------------------------------------------------- panoptic


def test_better_instance_takes_the_overlap():
    result = predict([1, 1, 1], [[9.0, 9, -9], [-9.0, 9, 9]], [{0: 0.7}, {1: 0.9}])
    assert result.labels.tolist() == [3, 2]
    assert result.panoptic_instance.tolist() == [1, 0, 0]
    assert result.panoptic_semantic.tolist() == [2, 3, 3]


def test_instance_left_with_too_few_points_gives_them_back():
    config = PostprocessConfig(object_normalization=False, min_points=2)
    result = predict([2, 2, 1], [[9.0, 9, -9], [-9.0, 9, 9]], [{0: 0.7}, {1: 0.9}], config=config)
    assert len(result.labels) == 2
    assert result.panoptic_instance.tolist() == [-1, -1, 0, 0, 0]
    assert result.panoptic_semantic.tolist() == [1, 1, 3, 3, 3]


def test_only_confident_instances_enter_the_panoptic_labels():
    result = predict([1, 1], [[9.0, -9.0], [-9.0, 9.0]], [{0: 0.4}, {1: 0.6}])
    assert len(result.labels) == 2
    assert result.panoptic_instance.tolist() == [-1, 0]


def test_label_set_whose_stuff_is_not_at_the_front():
    label_set = LabelSet.of(
        "odd", ("a", "floor", "b", "wall", "c"), (1, 2, 3, 4, 5), stuff_classes=(1, 3)
    )
    result = predict([1, 1], [[9.0, -9.0]], [{2: 0.9}], label_set, stuff=3)
    assert result.labels.tolist() == [4]
    assert result.panoptic_semantic.tolist() == [4, 3]


def test_label_set_without_stuff():
    label_set = LabelSet.of("things", ("a", "b"), (1, 2), stuff_classes=())
    result = predict([1, 1], [[9.0, -9.0]], [{1: 0.9}], label_set)
    assert result.panoptic_semantic.tolist() == [1, -1]


# -------------------------------------------------------------------------------------- whole batch


def test_scenes_of_a_batch_keep_their_own_points():
    superpoints = [torch.tensor([0, 1, 1]), torch.tensor([1, 0])]
    class_logits = torch.full((2, 19), -9.0)
    class_logits[0, 5] = 9.0
    class_logits[1, -1] = 9.0
    layer = LayerPrediction(
        class_logits=[class_logits, class_logits],
        mask_logits=[torch.tensor([[-9.0, 9.0], [-9, -9]]), torch.tensor([[9.0, -9.0], [-9, -9]])],
    )
    prediction = Prediction([layer], None, None, torch.zeros(4, 1))
    first, second = postprocess(
        prediction,
        batch_of_superpoints(superpoints),
        SCANNET20,
        PostprocessConfig(min_points=0, score_threshold=0.5),
    )
    assert (first.name, second.name) == ("scene0", "scene1")
    assert first.point_masks().tolist() == [[False, True, True]]
    assert second.point_masks().tolist() == [[False, True]]
    assert first.semantic is None and first.panoptic_semantic is None, "no semantic head"


def test_prediction_of_some_superpoints_only_is_refused():
    prediction, batch = make_prediction([1, 1, 1], [[9.0] * 3], [{0: 0.9}], SCANNET20, None, FLOOR)
    prediction.semantic_logits = [prediction.semantic_logits[0][:2]]
    with pytest.raises(ValueError, match="2 semantic predictions for 3"):
        postprocess(prediction, batch, SCANNET20, PLAIN)


def test_nan_prediction_gives_no_instance():
    result = predict([5, 5], [[float("nan"), float("nan")]], [{0: 0.9}])
    assert len(result.scores) == 0


def test_packing_in_blocks_equals_packing_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(postprocessing, "POINT_MASK_BYTES", 300)  # six masks
    for count, points in ((20, 45), (20, 48), (1, 3), (0, 45)):
        masks = rng.random((count, 7)) > 0.5
        superpoint_of_point = rng.integers(0, 7, points)
        expected = np.packbits(masks[:, superpoint_of_point], axis=1)
        for pack in (pack_point_masks, pack_by_product):
            packed = pack(torch.from_numpy(masks), torch.from_numpy(superpoint_of_point))
            assert np.array_equal(packed, expected) and packed.shape == expected.shape


def test_every_byte_is_packed_as_numpy_does():
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(bool)
    packed = pack_by_product(torch.from_numpy(bits), torch.arange(8))
    assert packed[:, 0].tolist() == list(range(256))
