"""Evaluation of many scenes: memory per scene, and figures by how often classes occur."""

from __future__ import annotations

import gc
import math
import sys
import weakref

import numpy as np
import pytest
from torch import nn

from bifusion.evaluation.evaluator import Evaluator
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.models.build import build_model
from bifusion.training.validation import VALIDATION_CACHE_MB, count_share, validation_loader
from bifusion.types import Batch, FusionControl, Prediction, SceneResult, SceneTruth
from tiny_runs import make_tiny_data, tiny_config

SPLIT = LabelSet.of(
    "split",
    ("wall", "chair", "table", "bowl"),
    (1, 5, 7, 9),
    stuff_classes=(0,),
    group_of={"wall": "head", "chair": "head", "table": "tail", "bowl": "tail"},
)


def random_scene(points: int, masks: int, seed: int) -> tuple[SceneResult, SceneTruth]:
    """Runs of points as instances, and masks that overlap them."""
    rng = np.random.default_rng(seed)
    instance = np.arange(points) * 12 // points
    class_of = rng.integers(2, 20, 12)
    starts = rng.integers(0, points, masks)
    drawn = (np.arange(points) - starts[:, None]) % points < points // 12
    result = SceneResult(
        name=f"scene{seed}",
        num_points=points,
        masks=np.packbits(drawn, axis=1),
        labels=class_of[instance[(starts + points // 24) % points]].astype(np.int16),
        scores=rng.random(masks).astype(np.float32),
        semantic=class_of[instance].astype(np.int16),
        panoptic_semantic=class_of[instance].astype(np.int16),
        panoptic_instance=instance.astype(np.int32),
    )
    return result, SceneTruth(result.name, class_of[instance], instance)


def held_arrays(owner: object) -> list[np.ndarray]:
    """All arrays that `owner` keeps alive, however deep."""
    todo, seen, arrays = [owner], set(), []
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type) or item is sys.modules:
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            arrays.append(item if item.base is None else item.base)
        todo += [
            other
            for other in gc.get_referents(item)
            if not callable(other) and not isinstance(other, type(sys))
        ]
    return arrays


def test_evaluator_keeps_matches_and_no_array_over_points() -> None:
    evaluator = Evaluator(SCANNET20)
    points, masks, scenes = 4000, 60, 5
    sizes = []
    for seed in range(scenes):
        evaluator.add(*random_scene(points, masks, seed))
        arrays = held_arrays(evaluator)
        assert all(array.size < points // 2 for array in arrays if array.dtype != object)
        sizes.append(sum(array.nbytes for array in arrays))
    assert evaluator.compute()["ap25"] > 0
    # Of 600 masks a scene of ScanNet keeps ten times this: well under a MB.
    assert np.diff(sizes).max() < 60 * 1000


def one_class_each(semantic: list[int], guess: list[int]) -> dict:
    """Figures of instances 0 … that are the runs of ten points of each class, all found exactly."""
    truth = np.repeat(semantic, 10)
    instance = np.where(truth == 0, -1, np.repeat(np.arange(len(semantic)), 10))
    things = [row for row, label in enumerate(semantic) if label != 0]
    masks = np.repeat(np.arange(len(semantic)), 10)[None] == np.array(things)[:, None]
    result = SceneResult(
        name="room",
        num_points=len(truth),
        masks=np.packbits(masks, axis=1),
        labels=np.array([guess[row] for row in things], dtype=np.int16),
        scores=np.linspace(0.9, 0.5, len(things), dtype=np.float32),
        semantic=np.repeat(guess, 10),
        panoptic_semantic=np.repeat(guess, 10),
        panoptic_instance=instance,
    )
    evaluator = Evaluator(SPLIT, min_region=1)
    evaluator.add(result, SceneTruth("room", truth, instance))
    return evaluator.compute()


def test_splits_average_their_own_classes() -> None:
    # The table is taken for a chair: IoU chair 1/2, table 0; AP chair falls, table 0.
    figures = one_class_each([0, 1, 2], [0, 1, 1])
    head, tail = figures["by_group"]["head"], figures["by_group"]["tail"]
    assert head["miou"] == pytest.approx((1 + 1 / 2) / 2)
    assert tail["miou"] == 0.0  # the bowl never occurs and is not part of the mean
    assert head["ap50"] == figures["per_class"]["chair"][1]
    assert tail["ap"] == tail["ap25"] == 0.0


def test_split_without_any_annotation_is_nan() -> None:
    figures = one_class_each([0, 1], [0, 1])["by_group"]
    assert figures["head"] == {"miou": 1.0, "ap": 1.0, "ap50": 1.0, "ap25": 1.0}
    assert all(math.isnan(value) for value in figures["tail"].values())


def test_split_of_a_model_without_semantic_head_has_ap_alone() -> None:
    evaluator = Evaluator(SCANNET200)
    evaluator.add(
        SceneResult("a", 8, np.zeros((0, 1), np.uint8), np.zeros(0, np.int16), np.zeros(0, np.float32)),
        SceneTruth("a", np.full(8, 1), np.zeros(8, int)),
    )
    figures = evaluator.compute()["by_group"]
    assert list(figures) == ["head", "common", "tail"]
    assert figures["head"]["miou"] is None


def test_scannet200_splits_cover_all_classes_once() -> None:
    classes = [c for split in SCANNET200.groups.values() for c in split]
    assert sorted(classes) == list(range(200))
    assert [len(split) for split in SCANNET200.groups.values()] == [66, 68, 66]


def test_label_set_without_splits_has_no_such_figures() -> None:
    assert Evaluator(SCANNET20).compute()["by_group"] == {}


class Watched(nn.Module):
    """A model that checks, before each scene, that nothing of its last answer is still in memory."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.answers: list[weakref.ref] = []

    def forward(self, batch: Batch, control: FusionControl) -> Prediction:
        assert not [ref for ref in self.answers if ref() is not None]
        prediction = self.model(batch, control)
        tensors = [mask for layer in prediction.layers for mask in layer.mask_logits]
        self.answers += [weakref.ref(tensor) for tensor in tensors]
        return prediction


def test_validation_drops_a_prediction_before_the_next_one(tmp_path) -> None:
    config = tiny_config("oneformer3d_small", make_tiny_data(tmp_path, train=1, val=4))
    model = Watched(build_model(config.model, config.seed, config.labels))
    loader = validation_loader(config, max_views=0)
    outcome = count_share(model, loader, config, FusionControl()).outcome()
    assert len(model.answers) == 4 * (1 + config.model.decoder.num_layers)
    assert len(outcome.first_results) == 2


def test_validation_caches_little(tmp_path) -> None:
    config = tiny_config("oneformer3d_small", make_tiny_data(tmp_path, train=1, val=1))
    assert validation_loader(config, max_views=0).dataset.config.cache_mb == VALIDATION_CACHE_MB
    config.data.cache_mb = 3
    assert validation_loader(config, max_views=0).dataset.config.cache_mb == 3
