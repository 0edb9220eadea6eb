"""Numbers of a configuration that make no sense are refused before anything is built from them."""

import dataclasses
from typing import Annotated

import pytest

from bifusion.bounds import AtMost, Count, Interval, MultipleOf, PositiveInt, Share, check_bounds
from bifusion.config.stages import Ramp, StagePlan
from bifusion.errors import InputError
from bifusion.recipes import RECIPES, get_recipe
from bifusion.runs.check_config import check_config


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_in_range(name):
    check_config(get_recipe(name))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("data.voxel_size_m", 0.0, "above 0"),
        ("data.voxel_size_m", float("nan"), "a finite number"),
        ("data.voxel_size_m", 2.0, "0.0001 to 1 m"),  # centimetres
        ("data.max_views", -1, "0 or more"),
        ("data.color_std", (60.0, 0.0, 60.0), "above 0"),
        ("data.augment.flip_probability", 1.5, "from 0 to 1"),
        ("data.augment.scale", (1.2, 0.8), "the smaller number first"),
        ("optim.lr", -1e-3, "above 0"),
        ("optim.rates", {"tower.*": float("inf")}, "a finite number"),
        ("optim.betas", (0.9, 1.0), "from 0 to below 1"),
        ("trainer.accumulate", 0, "above 0"),
        ("trainer.eval_every", 0, "above 0"),
        ("model.decoder.heads", 3, "a multiple of model.decoder.heads, 3"),
        ("model.tower.heads", 0, "above 0"),
        ("trainer.hang_minutes", 1e30, "at most 1,000,000"),
        ("trainer.guard.rules.gradient_ratio", 0.0, "above 0"),
        ("trainer.guard.rules.worst_ratio", -1.0, "above 0"),
        ("trainer.guard.rules.seen_drop", 2.0, "from 0 to 1"),
        ("trainer.guard.rules.conflict_cosine", -2.0, "from -1 to 1"),
        ("criterion.matcher.bce_weight", -1.0, "0 or more"),
    ],
)
def test_number_out_of_range(path, value, expected):
    config = get_recipe("bifusion_small")
    owner = config
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, value)
    with pytest.raises(InputError, match=f"found .*, expected {expected}; change --") as error:
        check_config(config)
    assert path.rsplit(".", 1)[0] in str(error.value)


@dataclasses.dataclass
class Inner:
    share: Share = 0.5
    free: float = -1.0


@dataclasses.dataclass
class Outer:
    whole: Annotated[PositiveInt, MultipleOf("part")] = 6
    part: PositiveInt = 3
    few: Annotated[PositiveInt, AtMost("part")] = 1
    fewer: Annotated[PositiveInt, AtMost("whole", times=4)] = 1
    maybe: Count | None = None
    pair: Interval = (0.0, 1.0)
    sizes: tuple[PositiveInt, ...] = (1, 2)
    named: dict[str, Share] = dataclasses.field(default_factory=dict)
    inner: Inner = dataclasses.field(default_factory=Inner)
    several: tuple[Inner, ...] = (Inner(),)
    by_name: dict[str, Inner] = dataclasses.field(default_factory=dict)


def test_the_ramps_of_stages_are_looked_at():
    config = get_recipe("bifusion_small")
    stage = dataclasses.replace(config.stages.stages[1], gate_scale=Ramp(1.0, begin=0.5, end=1.5))
    config.stages = StagePlan((stage,))
    with pytest.raises(InputError, match=r"gate_scale\.end: found 1.5, expected from 0 to 1"):
        check_config(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trains": {"decoder": Ramp(-0.5)}}, r"trains\['decoder'\] of .* comes to -0.5, expected 0 or"),
        ({"tower_gradient_scale": Ramp(-1.0)}, "tower_gradient_scale of .* comes to -1.0"),
        (
            {"gate_scale": Ramp(2.0)},
            "gate_scale of stage 'alignment' comes to 2.0, expected from 0 to 1",
        ),
    ],
)
def test_factors_that_turn_a_training_round_are_refused(changes, message):
    config = get_recipe("bifusion_small")
    config.stages = StagePlan((dataclasses.replace(config.stages.stages[1], **changes),))
    with pytest.raises(InputError, match=message):
        check_config(config)


def test_a_margin_that_divides_is_above_zero():
    config = get_recipe("bifusion_small")
    config.data.agreement = dataclasses.replace(config.data.agreement, margin=0.0)
    with pytest.raises(InputError, match=r"agreement\.margin: found 0.0, expected above 0"):
        check_config(config)


def test_what_is_in_bounds_passes():
    check_bounds(Outer(maybe=0, named={"a": 1.0}, by_name={"a": Inner()}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": 1.5}, "part: found 1.5, expected a whole number"),
        ({"whole": 7}, "whole: found 7, expected a multiple of part, 3"),
        ({"few": 4}, "few: found 4, expected at most part, 3"),
        ({"fewer": 2}, "fewer: found 2, expected at most 1/4 of whole, 6"),
        ({"maybe": -1}, "maybe: found -1, expected 0 or more"),
        ({"pair": (1.0, 0.0)}, r"pair: found \(1.0, 0.0\), expected the smaller number first"),
        ({"pair": (float("nan"), 0.0)}, "pair: found nan, expected a finite number"),
        ({"sizes": (1, 2, 0)}, "sizes: found 0, expected above 0"),
        ({"named": {"a": 2.0}}, "named: found 2.0, expected from 0 to 1"),
        ({"inner": Inner(share=-0.1)}, "inner.share: found -0.1, expected from 0 to 1"),
        ({"inner": Inner(free=float("inf"))}, "inner.free: found inf, expected a finite number"),
        ({"several": (Inner(), Inner(share=2))}, "several.share: found 2"),
        ({"by_name": {"a": Inner(share=3)}}, "by_name.share: found 3"),
    ],
)
def test_a_bound_is_held_wherever_it_stands(changes, message):
    with pytest.raises(InputError, match=message):
        check_bounds(Outer(**changes))
