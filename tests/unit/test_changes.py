"""What differs between two configurations, and what of it may."""

import dataclasses
from pathlib import Path

import pytest

from bifusion.changes import changeable, changes
from bifusion.config.stages import same_start
from bifusion.recipes import RECIPES, get_recipe
from bifusion.recipes.bifusion import three_stages
from bifusion.recipes.mask3d import mask3d_plan


def test_fields_are_named_within_their_groups():
    one, other = get_recipe("bifusion_small"), get_recipe("bifusion_small")
    other.optim.lr, other.seed, other.trainer.guard.rules.actions = 2e-3, 5, {"loss_spike": "skip"}
    stages = other.stages.stages
    first = dataclasses.replace(stages[0], share=3.0, weights={**stages[0].weights})
    del first.weights["semantic"]
    other.stages = dataclasses.replace(other.stages, stages=(first, *stages[1:]))
    assert [str(change) for change in changes(one, other)] == [
        f"stages.stages.0.share: then {stages[0].share}, now 3.0",
        "stages.stages.0.weights.semantic: then Ramp, now nothing",
        "seed: then 0, now 5",
        "optim.lr: then 0.001, now 0.002",
        "trainer.guard.rules.actions.loss_spike: then nothing, now 'skip'",
    ]


def test_what_is_not_learned_may_change():
    one, other = get_recipe("bifusion_small"), get_recipe("bifusion_small")
    other.data.root, other.trainer.workers, other.trainer.save_every = Path("elsewhere"), 3, 7
    other.trainer.guard.bundles = 0
    assert not list(changes(one, other))
    assert {"data.root", "trainer.workers", "trainer.save_every", "trainer.guard.bundles"} <= set(
        changeable(one)
    )


def test_other_models_and_lists_are_one_change():
    one, other = get_recipe("bifusion_small"), get_recipe("mask3d_small")
    told = {change.path: change for change in changes(one, other)}
    assert str(told["model"]) == "model: then BiFusionConfig, now Mask3DConfig"
    assert "stages.stages" in told


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_does_not_differ_from_itself(recipe):
    assert not list(changes(get_recipe(recipe), get_recipe(recipe)))


@pytest.mark.parametrize(
    ("plan", "one", "other", "until", "same"),
    [
        (mask3d_plan(), 10, 20, 10, True),
        (mask3d_plan(), 20, 10, 10, True),
        (three_stages(4), 40, 80, 3, True),  # nothing ramps in the first half of the first stage
        (three_stages(4), 40, 80, 6, False),  # the score loss does in the second
        (three_stages(4), 40, 41, 3, True),
        (three_stages(4), 40, 41, 8, False),
        (three_stages(4), 40, 40, 40, True),
    ],
)
def test_another_length_begins_as_this_one(plan, one, other, until, same):
    assert same_start(plan, one, other, until) is same
