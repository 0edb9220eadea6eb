from __future__ import annotations

import pytest
import torch

from bifusion.losses.mask_losses import bce_cost, bce_loss, dice_cost, dice_loss, mask_iou
from bifusion.losses.matcher import (
    MatcherConfig,
    NonFiniteCostError,
    matching_cost,
)
from bifusion.losses.matching import match_one_to_one, match_to_own_superpoints
from bifusion.types import Targets


def pairs(match: tuple[torch.Tensor, torch.Tensor]) -> list[tuple[int, int]]:
    return list(zip(match[0].tolist(), match[1].tolist(), strict=True))


def match_own_superpoint(cost, contained):
    """Of one output and scene; every query is a superpoint of its own."""
    queries, instances = contained.shape
    targets = Targets(torch.zeros(queries), contained.T, torch.zeros(instances))
    ((match,),) = match_to_own_superpoints([[cost]], [targets], [torch.arange(queries)], ["a"], [0])
    return match


def match_hungarian(cost):
    ((match,),) = match_one_to_one([[cost]], ["a"], [0])
    return match


def test_instance_takes_its_cheapest_own_query():
    cost = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.3, 0.1]])
    contained = torch.tensor([[False, False], [True, False], [True, True]])
    assert pairs(match_own_superpoint(cost, contained)) == [(2, 0), (2, 1)]


def test_instance_without_a_sampled_query_is_left_out():
    cost = torch.rand(3, 2)
    contained = torch.tensor([[False, True], [False, False], [False, False]])
    assert pairs(match_own_superpoint(cost, contained)) == [(0, 1)]


def test_no_instance_at_all():
    match = match_own_superpoint(torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.bool))
    assert pairs(match) == []
    assert match[0].dtype == torch.int64
    assert pairs(match_hungarian(torch.zeros(3, 0))) == []


def test_single_query():
    assert pairs(match_own_superpoint(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))) == [(0, 0)]


def test_first_of_equal_queries_is_taken():
    contained = torch.tensor([[False], [True], [True]])
    assert pairs(match_own_superpoint(torch.zeros(3, 1), contained)) == [(1, 0)]


def test_hungarian_is_one_to_one():
    cost = torch.tensor([[0.0, 0.1], [0.2, 5.0]])
    assert pairs(match_hungarian(cost)) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_cost_names_scene_and_layer(bad: float):
    costs = [[torch.zeros(2, 2), torch.zeros(2, 3)] for _ in range(3)]
    targets = [Targets(torch.zeros(2), torch.ones(g, 2).bool(), torch.zeros(g)) for g in (2, 3)]
    made_of, scenes = [torch.arange(2)] * 2, ["scene0000_00", "scene0000_01"]
    both = (
        lambda: match_one_to_one(costs, scenes, [2, 3, 4]),
        lambda: match_to_own_superpoints(costs, targets, made_of, scenes, [2, 3, 4]),
    )
    assert all(len(match()) == 3 for match in both)
    costs[2][1][1, 2] = bad
    for match in both:
        with pytest.raises(NonFiniteCostError, match=r"'scene0000_01'.*output 4.*1 of 6") as caught:
            match()
        assert (caught.value.scene, caught.value.layer) == ("scene0000_01", 4)


def test_matches_of_all_outputs_and_scenes_are_those_of_each():
    torch.manual_seed(0)
    costs = [[torch.rand(4, 3), torch.rand(5, 2)] for _ in range(2)]
    together = match_one_to_one(costs, ["a", "b"], [0, 1])
    each = [[match_hungarian(cost) for cost in layer] for layer in costs]
    assert [[pairs(m) for m in layer] for layer in together] == [
        [pairs(m) for m in layer] for layer in each
    ]


def test_cost_prefers_the_query_that_predicts_the_instance():
    class_logits = torch.tensor([[5.0, 0, 0], [0, 5, 0]])
    mask_logits = torch.tensor([[9.0, 9, -9], [-9.0, -9, 9]])
    labels, masks = torch.tensor([0, 1]), torch.tensor([[True, True, False], [False, False, True]])
    cost = matching_cost(class_logits, mask_logits, labels, masks, MatcherConfig())
    assert cost.argmin(dim=0).tolist() == [0, 1]
    assert cost[0, 0] == pytest.approx(-0.5 * class_logits.softmax(1)[0, 0].item(), abs=1e-3)


def test_pairwise_costs_are_the_losses_of_each_pair():
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 9), (torch.rand(3, 9) > 0.5).float()
    for q in range(4):
        for g in range(3):
            pair = logits[q : q + 1], targets[g : g + 1]
            assert bce_cost(logits, targets)[q, g] == pytest.approx(bce_loss(*pair).item(), rel=1e-5)
            assert dice_cost(logits, targets)[q, g] == pytest.approx(dice_loss(*pair).item(), rel=1e-5)


def test_costs_of_huge_logits_are_finite():
    logits = torch.tensor([[1e5, -1e5]])
    targets = torch.tensor([[0.0, 1.0]])
    assert bce_cost(logits, targets).item() == pytest.approx(1e5)
    assert torch.isfinite(dice_cost(logits, targets)).all()


def test_losses_of_no_mask_are_zero_with_a_graph():
    logits = torch.zeros(0, 5, requires_grad=True)
    for loss in (bce_loss(logits, torch.zeros(0, 5)), dice_loss(logits, torch.zeros(0, 5))):
        assert loss.item() == 0
        assert loss.requires_grad


def test_dice_of_an_empty_target_and_prediction_is_zero():
    assert dice_loss(torch.full((1, 4), -50.0), torch.zeros(1, 4)).item() == pytest.approx(0, abs=1e-6)


def test_mask_iou():
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]])
    targets = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert mask_iou(logits, targets).tolist() == pytest.approx([1 / 3, 0.0], abs=1e-5)
