"""Splitting masks by distance, and Mask3D's way from logits to instances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bifusion.labels.sets import SCANNET20
from bifusion.models.distance_clusters import distance_clusters
from bifusion.models.postprocess_mask3d import (
    Mask3DPostprocessConfig,
    SceneVoxels,
    postprocess_mask3d,
    select_masks,
    split_mask,
)
from bifusion.types import LayerPrediction, Prediction
from small_batches import batch_of_superpoints


def chained(points: np.ndarray, radius: float) -> np.ndarray:
    """The definition, point by point: everything a chain of short steps reaches is one cluster."""
    near = np.linalg.norm(points[:, None] - points[None], axis=2) <= radius
    labels = np.full(len(points), -1)
    for start in range(len(points)):
        if labels[start] >= 0:
            continue
        reached = np.arange(len(points)) == start
        while (grown := near[reached].any(axis=0)).sum() > reached.sum():
            reached = grown
        labels[reached] = labels.max() + 1
    return labels


def test_clusters_very_far_apart() -> None:
    points = np.array([[0.0, 0, 0], [1e6, 1e6, 1e6], [0.08, 0, 0]])
    assert distance_clusters(points, 0.1).tolist() == [0, 1, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.floats(0.05, 1.5), st.integers(0, 10_000))
def test_clusters_are_those_of_the_definition(number: int, radius: float, seed: int):
    points = np.random.default_rng(seed).uniform(0, 3, (number, 3)) * [1, 1, 0.3]
    assert (distance_clusters(points, radius) == chained(points, radius)).all()


def test_distance_exactly_the_radius_joins():
    points = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [3.5, 0, 0]])
    assert distance_clusters(points, 1.0).tolist() == [0, 0, 0, 1]


def test_clusters_far_apart_cell_by_cell_but_near_point_by_point():
    """Two bars whose nearest ends are within the radius while their cells' first points are not."""
    bars = [np.stack([np.linspace(a, a + 0.6, 13), np.zeros(13), np.zeros(13)], 1) for a in (0.0, 1.54)]
    points = np.concatenate(bars)
    assert distance_clusters(points, 0.95).max() == 0
    assert distance_clusters(points, 0.93).max() == 1


def test_no_points_no_clusters():
    assert distance_clusters(np.zeros((0, 3)), 1.0).shape == (0,)


# ------------------------------------------------------------------------------------------ instances

POSITION = np.array([[x, 0.0, 0.0] for x in (0.0, 0.1, 0.2, 3.0, 3.1, 6.0)])
SUPERPOINT = np.array([0, 0, 1, 2, 2, 3])
"""Superpoints 0 and 1 lie together, 2 is 2.8 m away, 3 is nowhere near."""
SCENE = SceneVoxels.of(POSITION, np.arange(6), SUPERPOINT)
"""One point a voxel."""


def logits_of(rows: list[list[float]], classes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits that make (nearly) sure of `classes` (18: no object), and mask logits `rows`."""
    class_logits = torch.full((len(rows), 19), -30.0)
    class_logits[torch.arange(len(rows)), torch.tensor(classes)] = 30.0
    return class_logits, torch.tensor(rows)


def test_parts_apart_become_instances_of_the_same_class():
    class_logits, mask_logits = logits_of([[2.0, 2.0, 1.0, -1.0]], [4])
    masks, labels, scores = select_masks(
        class_logits, mask_logits, SCENE, Mask3DPostprocessConfig(top_k=2)
    )
    assert masks.tolist() == [[True, True, False, False], [False, False, True, False]]
    assert labels.tolist() == [4, 4]
    sure = torch.sigmoid(torch.tensor([2.0, 1.0])).tolist()
    np.testing.assert_allclose(scores, sure, rtol=1e-5)


def test_candidates_below_a_least_score_are_left_out():
    class_logits, mask_logits = logits_of([[2.0, 2.0, 1.0, -1.0]], [4])
    config = Mask3DPostprocessConfig(top_k=2)
    every = select_masks(class_logits, mask_logits, SCENE, config)
    best = select_masks(class_logits, mask_logits, SCENE, config.with_min_score(0.8))
    assert len(every[2]) == 2 and every[2].min() < 0.8
    for one, other in zip(best, every, strict=True):
        assert np.array_equal(one, other[:1])


def test_without_splitting_the_mask_stays_whole():
    class_logits, mask_logits = logits_of([[2.0, 2.0, 1.0, -1.0]], [4])
    config = Mask3DPostprocessConfig(top_k=1, split_masks=False)
    masks, _, scores = select_masks(class_logits, mask_logits, SCENE, config)
    assert masks.tolist() == [[True, True, True, False]]
    two, one = torch.sigmoid(torch.tensor([2.0, 1.0])).tolist()
    np.testing.assert_allclose(scores, [(3 * two + 2 * one) / 5], rtol=1e-5)  # weighted by voxels


def test_top_k_counts_parts_times_classes_before_the_mask_score():
    class_logits = torch.zeros(1, 19)
    class_logits[0, 3], class_logits[0, 7] = 5.0, 4.0
    masks, labels, scores = select_masks(
        class_logits,
        torch.tensor([[3.0, -1.0, -1.0, -1.0]]),
        SCENE,
        Mask3DPostprocessConfig(top_k=2),
    )
    assert labels.tolist() == [3, 7] and len(masks) == 2
    assert scores[0] > scores[1] > 0


def test_superpoint_that_straddles_parts_goes_to_the_larger_share():
    position = np.array([[0.0, 0, 0], [0.1, 0, 0], [5.0, 0, 0], [5.1, 0, 0]])
    superpoint = np.array([0, 0, 0, 1])
    class_logits, mask_logits = logits_of([[1.0, 1.0]], [0])
    masks, _, _ = select_masks(
        class_logits,
        mask_logits,
        SceneVoxels.of(position, np.arange(4), superpoint),
        Mask3DPostprocessConfig(top_k=2),
    )
    assert sorted(masks.tolist()) == [[False, True], [True, False]]


def test_a_superpoint_that_owns_no_voxel_goes_with_its_points():
    """Superpoint 1 has but a second point of superpoint 0's last voxel."""
    position = np.array([[0.0, 0, 0], [5.0, 0, 0], [5.1, 0, 0]])
    scene = SceneVoxels.of(position, np.array([0, 1, 2, 2]), np.array([2, 0, 0, 1]))
    assert scene.owner.tolist() == [2, 0, 0]
    parts = split_mask(np.array([True, False, True]), scene, Mask3DPostprocessConfig())
    assert [part.tolist() for part, _ in parts] == [[False, False, True], [True, True, False]]
    assert [voxels.tolist() for _, voxels in parts] == [[0, 0, 1], [2, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("splits", [True, False])
def test_masks_are_those_of_the_official_steps(seed: int, splits: bool):
    """Voxel by voxel: its superpoint's mask, cut into clusters; each point takes its voxel's value, a
    superpoint what more than half of its points have (`get_full_res_mask`)."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(0, 6, (40, 3)) * [1, 1, 0.2]
    voxel = np.concatenate([np.arange(40), rng.integers(0, 40, 60)])
    superpoint = rng.integers(0, 12, 100)
    scene = SceneVoxels.of(position, voxel, superpoint)
    config = Mask3DPostprocessConfig(split_masks=splits)
    inside = rng.uniform(size=12) < 0.4
    of_voxel = inside[[superpoint[np.flatnonzero(voxel == v)[0]] for v in range(40)]]
    cluster = np.full(40, -1)
    cluster[of_voxel] = chained(position[of_voxel], config.dbscan_eps_m) if splits else 0
    expected = []
    for part in range(cluster.max() + 1):
        of_point = (cluster == part)[voxel]
        expected.append([of_point[superpoint == s].mean() > 0.5 for s in range(12)])
    found = [part.tolist() for part, _ in split_mask(inside, scene, config)]
    assert found == expected and len(found) > (1 if splits else 0)


def test_scene_without_any_mask_has_no_instances():
    class_logits, mask_logits = logits_of([[-1.0, -1.0, -1.0, -1.0]], [4])
    masks, labels, scores = select_masks(class_logits, mask_logits, SCENE, Mask3DPostprocessConfig())
    assert masks.shape == (0, 4) and len(labels) == len(scores) == 0


@pytest.mark.parametrize("scenes", [1, 2])
def test_results_are_on_points_scene_by_scene(scenes: int):
    batch = batch_of_superpoints([torch.arange(40) // 10] * scenes)
    rows = [[5.0, -5.0, -5.0, -5.0]] * scenes
    class_logits, mask_logits = logits_of(rows, [0] * scenes)
    layer = LayerPrediction(list(class_logits.split(1)), list(mask_logits.split(1)))
    prediction = Prediction([layer], None, None, torch.zeros(4 * scenes, 2))
    config = Mask3DPostprocessConfig(top_k=1)
    results = postprocess_mask3d(prediction, batch, SCANNET20, config)
    assert [result.name for result in results] == batch.names
    for result in results:
        assert result.labels.tolist() == [2]  # the first thing class
        assert result.point_masks()[0].tolist() == [True] * 10 + [False] * 30
        assert result.semantic is None and result.panoptic_instance is None
