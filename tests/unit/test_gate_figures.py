"""The gate point by point, and results by how points are seen, on points few enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bifusion.evaluation.evaluator import Evaluator
from bifusion.evaluation.gate_figures import BINS, GateFigures
from bifusion.evaluation.sight import Sight
from bifusion.evaluation.sight_split import SightSplit
from bifusion.geometry import LiftingConfig, Sightings, distance_to_cameras, find_sightings
from bifusion.labels.label_set import LabelSet
from bifusion.types import BatchView, SceneResult, SceneTruth

LABELS = LabelSet.of("tiny", ("wall", "chair", "table"), (1, 5, 7), stuff_classes=(0,))

# Six points: one that no view sees, five with 1, 1, 2, 3 and 5 views, from 0.5 to 3.5 m.
SIGHT = Sight(np.array([0, 1, 1, 2, 3, 5]), np.array([0.0, 0.5, 1.0, 2.5, 3.0, 3.5], dtype=np.float32))
GATE = np.array([0.99, 0.1, 0.3, 0.5, 0.7, 0.9])
SEMANTIC = np.array([0, 0, 1, 1, -1, 2])


def figures_of(*scenes, learned=True, right=None) -> dict:
    figures = GateFigures(LABELS)
    for gate, sight in scenes:
        figures.add(gate, SEMANTIC, sight, learned=learned, right=right)
    told = figures.compute()
    assert told is not None
    return told


def test_points_are_parted_by_sight_views_and_distance():
    groups = SIGHT.groups()
    assert groups["sight"].tolist() == [0, 1, 1, 1, 1, 1]
    assert groups["views"].tolist() == [0, 1, 1, 2, 3, 3]
    assert groups["distance"].tolist() == [0, 1, 2, 3, 4, 4], "a border belongs to what lies beyond it"


def test_the_gate_of_seen_points_by_hand():
    told = figures_of((GATE, SIGHT))
    assert told["points"] == 5 and told["mean"] == pytest.approx(0.5)
    spread = pytest.approx(np.std([0.1, 0.3, 0.5, 0.7, 0.9]))
    assert told["std"] == spread and told["std_within_scenes"] == spread, "one scene"
    assert len(told["histogram"]) == BINS and sum(told["histogram"]) == 5
    assert told["histogram"][2] == 1 and told["histogram"][19] == 0, "the unseen point's 0.99 is not in"
    classes = {name: (row["points"], row["mean"]) for name, row in told["classes"].items()}
    assert classes == {"wall": (1, 0.1), "chair": (2, pytest.approx(0.4)), "table": (1, 0.9)}
    views = {name: (row["points"], row["mean"]) for name, row in told["views"].items()}
    assert views == {
        "1 view": (2, pytest.approx(0.2)), "2 views": (1, 0.5),
        "3 views or more": (2, pytest.approx(0.8)),
    }  # fmt: skip
    assert [row["points"] for row in told["distance"].values()] == [1, 1, 1, 2]
    assert all(row["points"] == 0 for row in told["outcome"].values()), "what views change is not known"


def test_where_2d_is_informative():
    with_views = np.array([1, 1, 1, 0, 1, 0], dtype=bool)
    without = np.array([1, 1, 0, 1, 1, 0], dtype=bool)
    told = figures_of((GATE, SIGHT), right=(with_views, without))["outcome"]
    assert {name: (row["points"], row["mean"]) for name, row in told.items() if row["points"]} == {
        "right both ways": (1, 0.1), "right only with views": (1, 0.3),
        "right only without views": (1, 0.5), "wrong both ways": (1, 0.9),
    }  # fmt: skip


def test_a_gate_that_differs_only_between_scenes_has_no_spread_within_one():
    scenes = [(np.full(6, 0.2), SIGHT), (np.full(6, 0.8), SIGHT)]
    told = figures_of(*scenes)
    assert told["std"] == pytest.approx(0.3)
    assert told["std_within_scenes"] == pytest.approx(0, abs=1e-7)
    one, other = GateFigures(LABELS), GateFigures(LABELS)
    for figures, (gate, sight) in zip((one, other), scenes, strict=True):
        figures.add(gate, SEMANTIC, sight, learned=True)
    one.merge(other)
    assert str(one.compute()) == str(told), "NaN where there is nothing"


def test_a_fixed_gate_and_one_that_sees_nothing_have_no_figures():
    fixed, blind = GateFigures(LABELS), GateFigures(LABELS)
    fixed.add(GATE, SEMANTIC, SIGHT, learned=False)
    blind.add(GATE, SEMANTIC, Sight(np.zeros(6, dtype=np.int64), np.zeros(6)), learned=True)
    assert fixed.compute() is None and blind.compute() is None
    fixed.merge(blind)
    assert fixed.compute() is None and GateFigures(LABELS).compute() is None


# ------------------------------------------------------------------------- results by sight


def test_results_by_sight_by_hand():
    """A chair of points 0 to 3, of which one is unseen, found by half; a table not seen at all."""
    sight = Sight(np.array([0, 1, 1, 2, 0, 0]), np.array([0, 0.5, 1.5, 1.5, 0, 0], dtype=np.float32))
    truth = SceneTruth("room", np.array([1, 1, 1, 1, 2, 2]), np.array([0, 0, 0, 0, 1, 1]))
    mask = np.array([[0, 0, 1, 1, 0, 0]], dtype=bool)
    result = SceneResult(
        "room", 6, np.packbits(mask, axis=1), np.array([1], dtype=np.int16),
        np.ones(1, dtype=np.float32), semantic=np.array([1, 1, 2, 1, 2, 1]),
    )  # fmt: skip
    covered = Evaluator(LABELS, min_region=1).add(result, truth)
    assert covered.iou.tolist() == [0.5, 0.0]
    whole, half, rest = (SightSplit(LABELS) for _ in range(3))
    whole.add(result, truth, sight, covered)
    told = whole.compute()
    assert told["seen"]["points"] == 3 and told["seen"]["iou"]["chair"] == pytest.approx(2 / 3)
    assert told["unseen"]["iou"]["table"] == pytest.approx(1 / 2)
    assert (told["seen"]["instances"], told["seen"]["mask_coverage"]) == (1, 0.5)
    assert (told["unseen"]["instances"], told["unseen"]["mask_coverage"]) == (1, 0.0)
    assert told["by_views"]["1 view"]["instances"] == 1 and told["by_views"]["2 views"]["points"] == 1
    assert told["by_distance"]["1 to 2 m"]["iou"]["chair"] == pytest.approx(1 / 2)
    assert "unseen" not in told["by_views"] and np.isnan(told["by_distance"]["over 3 m"]["miou"])
    half.add(result, truth, sight, covered)
    half.merge(rest)
    assert str(half.compute()) == str(told)


def looking_down(height_m: float, x: float) -> BatchView:
    """A camera that looks straight down from there; its depth map is what it sees of the plane z = 0."""
    world2cam = torch.tensor(
        [[1.0, 0, 0, -x], [0, -1, 0, 0], [0, 0, -1, height_m], [0, 0, 0, 1]], dtype=torch.float32
    )
    K = torch.tensor([[10.0, 0, 10], [0, 10, 10], [0, 0, 1]])
    depth = torch.full((20, 20), height_m)
    return BatchView(0, "view", torch.zeros(3, 20, 20), depth[None], K, world2cam, depth, K, world2cam)


def test_distance_is_the_mean_of_the_cameras_that_see_a_voxel():
    position = torch.tensor([[0.0, 0, 0], [9.0, 0, 0]])
    views = [looking_down(2.0, 0.0), looking_down(4.0, 3.0)]
    sightings = find_sightings(position, torch.zeros(2), views, LiftingConfig(), [2])
    assert sightings.count.tolist() == [2, 0]
    assert distance_to_cameras(position, views, sightings).tolist() == pytest.approx([(2 + 5) / 2, 0])
    nothing = torch.zeros(0, dtype=torch.int64)
    blind = Sightings(nothing, nothing, torch.zeros(0, 2), torch.zeros(2, dtype=torch.int64))
    assert distance_to_cameras(position, [], blind).tolist() == [0, 0]
