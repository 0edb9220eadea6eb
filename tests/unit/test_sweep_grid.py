"""The grid of a sweep: which runs are asked for, what each changes, what is refused."""

import dataclasses

import numpy as np
import pytest

from bifusion.errors import InputError
from bifusion.recipes.bifusion import LOSS_WEIGHTS
from bifusion.studies.sweep.grid import CONDITIONS, FACTORS, parse_grid, sweep_arms
from bifusion.studies.sweep.run import SweepConfig, plan_sweep


def wanted(tmp_path, **settings):
    return SweepConfig(data=tmp_path, out=tmp_path / "out", base="bifusion_tiny", **settings)


def test_the_default_grid_is_whole(tmp_path):
    plan, runs = plan_sweep(wanted(tmp_path))
    roles = [arm.role for arm in plan.arms]
    assert roles == ["baseline", "without_views", "naive", "plan_a", "plan_b", "staged"]
    assert len(FACTORS) == 8 and FACTORS[-1] / FACTORS[0] == pytest.approx(1000)
    ratios = np.diff(np.log10(FACTORS))
    assert np.allclose(ratios, 3 / 7, atol=0.01), "evenly, up to rounding"
    further = [condition.key for condition in plan.conditions][1:]
    assert further == ["bf16", "fp16", "outliers", "range10", "range100", "guard", "batch4"]
    assert len(runs) == 6 * 8 * 3 + 2 * 8 * 3 * len(further) == len(plan.folders)
    assert len({run.folder for run in runs}) == len(runs)
    assert not (plan.factors_left_out or plan.conditions_left_out or plan.arms_left_out)


def test_a_condition_changes_what_it_says_and_nothing_else(tmp_path):
    keys = list(CONDITIONS)
    grid = ("lr=2", f"condition={','.join(keys)}")
    plan, runs = plan_sweep(wanted(tmp_path, grid=grid, seeds=(1,)))
    by_folder = {run.folder: run.config for run in runs}
    of = {key: by_folder[plan.folders["bifusion_tiny", key, 2.0, 1]] for key in keys}
    plain = of["plain"]
    assert plain.seed == 1 and plain.optim.lr == pytest.approx(2 * plan.arms[-1].lr)
    guard = plain.trainer.guard
    assert (guard.rollback_after, guard.max_rollbacks) == (1, 0), "the first fault ends it"
    assert of["guard"].trainer.guard.max_rollbacks > 0 and of["guard"].trainer.guard.rollback_after > 1
    assert of["bf16"].trainer.precision == "bf16-mixed" and of["fp16"].trainer.precision == "16-mixed"
    assert plain.trainer.precision == "32-true"
    ranges = {k: (c.model.fusion.range_2d, c.model.fusion.outliers_2d) for k, c in of.items()}
    assert (
        ranges["plain"] == (1, 1) and ranges["outliers"] == (1, 30) and ranges["range100"] == (100, 30)
    )
    assert of["batch4"].trainer.batch_size == 4 * plain.trainer.batch_size
    of["batch4"].trainer.batch_size = plain.trainer.batch_size
    of["range100"].model.fusion = plain.model.fusion
    assert of["layer_scale"].model.decoder.layer_scale > 0
    of["layer_scale"].model.decoder.layer_scale = 0.0
    assert of["batch4"] == plain == of["range100"] == of["layer_scale"]


def test_a_narrowed_grid_says_what_is_left_out(tmp_path):
    plan, runs = plan_sweep(
        wanted(
            tmp_path, arms=("naive", "bifusion_tiny"), grid=("lr=10,1", "condition=plain"), seeds=(4,)
        )
    )
    assert plan.factors == (1.0, 10.0) and plan.arms_left_out[0] == "bifusion_tiny_baseline"
    assert len(plan.factors_left_out) == 8 and "bfloat16" in plan.conditions_left_out
    assert [run.folder.name for run in runs] == [
        "bifusion_tiny_naive-plain-lr1-seed4",
        "bifusion_tiny-plain-lr1-seed4",
        "bifusion_tiny_naive-plain-lr10-seed4",
        "bifusion_tiny-plain-lr10-seed4",
    ]


def test_losses_are_weighed_as_at_the_end_of_an_arms_plan():
    arms = {arm.role: arm for arm in sweep_arms("bifusion_small")}
    assert arms["staged"].loss_weights == arms["naive"].loss_weights, "alignment has faded out"
    assert arms["staged"].loss_weights == LOSS_WEIGHTS
    assert arms["plan_a"].loss_weights == {"semantic": 1.0}
    assert arms["baseline"].key == "oneformer3d_small"


@pytest.mark.parametrize(
    "item", ["lr=", "lr=1,1", "rate=2", "lr=-1", "lr=x", "lr=inf", "condition=bf17", "condition="]
)
def test_grids_that_make_no_sense_are_refused(item):
    with pytest.raises(InputError, match="--grid"):
        parse_grid((item,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "bifusion_small_naive"}, "expected a staged recipe"),
        ({"base": "bifusion_smal"}, "unknown"),
        ({"arms": ("mask3d_tiny",)}, "no arm of it"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": ()}, "one or more"),
        ({"arms": ("plan_a",), "grid": ("condition=bf16",)}, "nothing to run"),
    ],
)
def test_requests_that_make_no_plan_are_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        plan_sweep(dataclasses.replace(wanted(tmp_path), **settings))
