"""Planning an ablation: arms, the grid, what is left out, what is refused."""

import dataclasses

import pytest

from bifusion.errors import InputError
from bifusion.studies.ablation.plan import GridPoint
from bifusion.studies.ablation.run import (
    AblationConfig,
    all_arms,
    grid_points,
    parse_grid,
    plan_ablation,
)


def config(tmp_path, **settings):
    return AblationConfig(data=tmp_path, out=tmp_path / "out", base="bifusion_tiny", **settings)


def test_the_default_plan_holds_every_arm_and_the_whole_grid(tmp_path):
    plan, runs = plan_ablation(config(tmp_path))
    recipes = [arm.recipe for arm in plan.arms]
    assert recipes[0] == "bifusion_tiny" and len(recipes) == len(set(recipes)) == 29
    for name in (
        "no_head_norm",
        "no_film",
        "adaptive_clipping",
        "layer_scale",
        "naive",
        "plan_a",
        "plan_b",
    ):
        assert f"bifusion_tiny_{name}" in recipes
    assert {"bifusion_tiny_without_views", "bifusion_tiny_baseline", "mask3d_tiny"} <= set(recipes)
    assert len(plan.points) == 8 and plan.seeds == (0, 1, 2)
    assert not plan.points_left_out and not plan.arms_left_out
    # Four arms have no 2D head: one run for both ranges.
    assert len(runs) == 3 * (25 * 8 + 4 * 4)
    assert len(plan.folders) == 3 * 29 * 8 and set(plan.folders.values()) == {r.folder for r in runs}


def test_a_point_sets_rate_range_and_precision_and_nothing_else(tmp_path):
    plan, runs = plan_ablation(config(tmp_path, arms=("bifusion_tiny_plan_a",)))
    by_folder = {run.folder: run.config for run in runs}
    point = GridPoint.at(5.0, 30.0, "bf16-mixed")
    staged = by_folder[plan.folders["bifusion_tiny", point.key, 1]]
    usual = by_folder[plan.folders["bifusion_tiny", GridPoint.at(1.0, 1.0, "32-true").key, 1]]
    assert staged.optim.lr == pytest.approx(5 * usual.optim.lr) and staged.seed == 1
    assert (staged.model.fusion.range_2d, staged.trainer.precision) == (30, "bf16-mixed")
    staged.optim.lr, staged.model.fusion.range_2d = usual.optim.lr, 1.0
    staged.trainer.precision = "32-true"
    assert staged == usual
    assert by_folder[plan.folders["bifusion_tiny_plan_a", point.key, 1]].model.fusion.range_2d == 1


def test_a_narrowed_grid_says_what_is_left_out(tmp_path):
    plan, runs = plan_ablation(
        config(tmp_path, grid=("lr=1", "precision=32-true"), arms=("mask3d_tiny",), seeds=(4,))
    )
    assert [point.key for point in plan.points] == ["lr1-range1-32-true", "lr1-range30-32-true"]
    assert len(plan.points_left_out) == 6 and len(plan.arms_left_out) == 27
    assert [run.folder.name for run in runs] == [
        "bifusion_tiny-lr1-range1-32-true-seed4",
        "mask3d_tiny-lr1-32-true-seed4",
        "bifusion_tiny-lr1-range30-32-true-seed4",
    ]


def test_other_sizes_find_their_own_rivals():
    names = {
        base: [arm.recipe for arm in all_arms(base)]
        for base in ("bifusion_small", "bifusion_scannet200")
    }
    assert {"oneformer3d_small", "mask3d_small"} <= set(names["bifusion_small"])
    assert "oneformer3d_scannet200" in names["bifusion_scannet200"]
    assert not any(name.startswith("mask3d") for name in names["bifusion_scannet200"])


@pytest.mark.parametrize(
    "items",
    [("lr=",), ("lr=1,1",), ("rate=2",), ("lr=-1",), ("lr=x",), ("precision=8",), ("range=inf",)],
)
def test_grids_that_make_no_sense_are_refused(items):
    with pytest.raises(InputError, match="--grid"):
        grid_points(parse_grid(items))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "bifusion_small_naive"}, "expected a staged recipe"),
        ({"base": "bifusion_smal"}, "unknown"),
        ({"arms": ("oneformer3d_scannet20",)}, "no arm of"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": ()}, "one or more"),
    ],
)
def test_requests_that_make_no_plan_are_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        plan_ablation(dataclasses.replace(config(tmp_path), **settings))
