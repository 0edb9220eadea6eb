"""Stages: where they begin, that nothing jumps, what each trains."""

import pytest

from bifusion.config.stages import Ramp, Stage, StagePlan, Timeline, at_once, unmatched_patterns
from bifusion.errors import InputError
from bifusion.recipes import get_recipe
from bifusion.recipes.bifusion import GRADIENT_NORMS, LOSS_WEIGHTS, S4_WEIGHTS, three_stages

GROUPS = ["backbone", "head_3d", "decoder", "head_2d", "film", "gate", "align"]
TOWER = ["tower.conv1_rgb", "tower.conv1_depth", "tower.embed", *(f"tower.block{i}" for i in range(6))]


def staged(epochs: int = 128) -> Timeline:
    return Timeline(three_stages(tower_blocks=6), epochs)


def test_published_boundaries():
    assert staged(128).bounds == [(0, 21), (21, 61), (61, 128)]


@pytest.mark.parametrize("epochs", [3, 4, 5, 7, 20, 24, 100, 256])
def test_boundaries_in_proportion_and_never_empty(epochs):
    bounds = staged(epochs).bounds
    assert bounds[0][0] == 0 and bounds[-1][1] == epochs
    assert all(first < end for first, end in bounds)
    assert all(a[1] == b[0] for a, b in zip(bounds, bounds[1:], strict=False))
    if epochs >= 20:
        assert bounds[0][1] == round(21 / 128 * epochs)


def test_fewer_epochs_than_stages_is_an_input_error():
    with pytest.raises(InputError, match="trainer.epochs is 2.*3 stages"):
        staged(2)


@pytest.mark.parametrize("epochs", [24, 128])
def test_nothing_jumps_at_a_boundary(epochs):
    timeline = staged(epochs)
    for boundary in (timeline.bounds[0][1], timeline.bounds[1][1]):
        before, after = timeline.at(boundary - 1e-9), timeline.at(boundary)
        assert before.stage is not after.stage
        for term, weight in before.weights.items():
            assert after.weights[term] == pytest.approx(weight, abs=1e-6)
        assert after.control.scale == pytest.approx(before.control.scale, abs=1e-6)
        assert after.control.tower_gradient_scale == pytest.approx(
            before.control.tower_gradient_scale, abs=1e-6
        )
        for group in GROUPS + TOWER:
            assert after.lr_factor(group) == pytest.approx(before.lr_factor(group), abs=1e-6)


def test_first_stage_is_three_dimensional_on_all_losses():
    start, end = staged().at(0), staged().at_end(21)
    assert start.control.scale == end.control.scale == 0 and not start.control.run_2d
    assert start.control.tower_gradient_scale == 0
    middle = staged().at(10)
    assert {term: end.weights[term] for term in LOSS_WEIGHTS} == LOSS_WEIGHTS
    for state in (start, middle):  # scores come last
        assert {term: state.weights[term] for term in LOSS_WEIGHTS} == {**LOSS_WEIGHTS, "score": 0}
    assert end.weights["alignment"] == 0
    trained = [group for group in GROUPS + TOWER if start.trains(group)]
    assert trained == ["backbone", "head_3d", "decoder"]


def test_instance_losses_can_come_in_behind_the_semantic_one():
    late = Timeline(get_recipe("bifusion_small_late_instances").stages, 128)
    start, end = late.at(0).weights, late.at_end(21).weights
    assert start["semantic"] == 1.0 and start["mask_bce"] == start["score"] == 0
    assert {term: end[term] for term in LOSS_WEIGHTS} == LOSS_WEIGHTS
    usual = get_recipe("bifusion_small").stages.stages
    for stage, base in zip(late.stages, usual, strict=True):
        assert stage.weights["score"] == base.weights["score"], "scores came last already"
        for term, ramp in base.weights.items():
            assert stage.weights[term].end >= ramp.end and stage.weights[term].begin >= ramp.begin


def test_losses_pull_on_the_shared_features_in_s4s_proportions():
    """S4: semantic 0.4, class 1.0, BCE 0.8, Dice 0.6, score 0.3, of the gradient."""
    pull = {term: weight * GRADIENT_NORMS[term] for term, weight in LOSS_WEIGHTS.items()}
    assert {term: 0.4 * share for term, share in pull.items()} == pytest.approx(S4_WEIGHTS, rel=0.01)
    raw = Timeline(get_recipe("bifusion_small_no_loss_balance").stages, 128)
    at_end = raw.at_end(21).weights
    assert {term: at_end[term] for term in S4_WEIGHTS} == S4_WEIGHTS


def test_second_stage_brings_images_in_and_leaves_clip_frozen():
    middle, end = staged().at(22), staged().at_end(61)
    assert middle.control.run_2d and middle.control.fixed_alpha == 0.5
    assert 0 <= middle.control.scale < 1
    assert end.control.scale == 1 and end.control.fixed_alpha is None
    assert end.weights["alignment"] > 0
    assert all(end.trains(group) for group in GROUPS)
    assert not any(end.trains(group) for group in TOWER)
    assert end.control.tower_gradient_scale == 0


def test_learned_alpha_takes_over_while_the_gate_is_fully_open():
    timeline = staged()
    times = [21 + i * 0.1 for i in range(400)]
    handover = next(t for t in times if timeline.at(t).control.fixed_alpha is None)
    assert timeline.at(handover).control.scale == pytest.approx(1.0)


def test_third_stage_trains_the_end_of_the_tower_and_lets_alignment_go():
    start, end = staged().at(61), staged().at_end(128)
    trained = [group for group in TOWER if end.trains(group)]
    assert trained == ["tower.conv1_depth", "tower.block4", "tower.block5"]
    assert start.lr_factor("tower.block5") == 0 and end.lr_factor("tower.block5") == 1
    assert end.weights["alignment"] == 0 and end.control.tower_gradient_scale > 0


def test_at_end_belongs_to_the_stage_that_ends():
    timeline = staged()
    assert timeline.at(21).stage.name == "alignment"
    assert timeline.at_end(21).stage.name == "stability"
    assert timeline.at(128).stage.name == timeline.at_end(128).stage.name == "enhancement"


def test_ramp_starts_from_the_stage_before():
    first = Stage("a", 1, {"*": at_once(1.0)}, {"semantic": at_once(2.0)})
    second = Stage("b", 1, {"*": at_once(1.0)}, {"semantic": Ramp(4.0, begin=0.25, end=0.75)})
    timeline = Timeline(StagePlan((first, second)), 8)
    weights = [timeline.at(epoch).weights["semantic"] for epoch in (0, 4, 5, 6, 7)]
    assert weights == [2.0, 2.0, 2.0, 3.0, 4.0]


def test_unmatched_pattern_is_found():
    plan = StagePlan((Stage("a", 1, {"backbone": at_once(1.0), "haed_2d": at_once(1.0)}, {}),))
    assert unmatched_patterns(plan, GROUPS) == ["haed_2d"]


def test_naive_has_no_stages_no_ramp_no_isolation():
    config = get_recipe("bifusion_small_naive")
    timeline = Timeline(config.stages, 24)
    state = timeline.at(0)
    assert timeline.bounds == [(0, 24)]
    assert state.weights == LOSS_WEIGHTS
    assert state.control.scale == 1 and state.control.tower_gradient_scale == 1
    assert all(state.trains(group) and state.lr_factor(group) == 1 for group in GROUPS + TOWER)


def test_without_views_differs_from_staged_in_alpha_alone():
    config, staged_config = get_recipe("bifusion_small_without_views"), get_recipe("bifusion_small")
    ours, theirs = Timeline(config.stages, 24), Timeline(staged_config.stages, 24)
    assert ours.bounds == theirs.bounds and config.model == staged_config.model
    for epoch in range(24):
        mine, other = ours.at(epoch), theirs.at(epoch)
        assert mine.control.fixed_alpha == 0 and not mine.control.run_2d
        assert mine.weights == other.weights
        assert all(mine.lr_factor(g) == other.lr_factor(g) for g in GROUPS)
