"""From OneFormer3D to BiFusion without views: each rung adds one thing, the last has all."""

import dataclasses
import itertools

import pytest
from laboratory.compared import spread
from laboratory.ladder import BASELINE, RUNGS, TOP, climb

from bifusion.config.run import Config, config_to_dict
from bifusion.config.stages import Timeline, unmatched_patterns
from bifusion.recipes import get_recipe
from bifusion.runs.check_config import check_config
from meta_models import meta_model

CHANGED = {
    "norm": {"model.fusion.head_norm"},
    "film": {"model.fusion.film"},
    "excitation": {"model.fusion.squeeze_excitation"},
    "score": {"model.decoder.score_head", "stages.stages"},
    "balance": {"stages.stages"},
    "stages": {"stages.stages"},
}
"""Rung → the only settings in which it differs from the one before."""


def at(rung: str) -> Config:
    config = get_recipe(TOP)
    climb(config, rung)
    return dataclasses.replace(config, name="ladder")


def settings(value, name: str = "") -> dict[str, object]:
    """Every setting by its full name."""
    if not isinstance(value, dict):
        return {name: value}
    found = {}
    for key, inner in value.items():
        found |= settings(inner, f"{name}.{key}" if name else key)
    return found


@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung != "oneformer3d"])
def test_every_rung_is_a_run(rung):
    config = at(rung)
    check_config(config)
    Timeline(config.stages, config.trainer.epochs)
    assert unmatched_patterns(config.stages, meta_model(config).parameter_groups()) == []


@pytest.mark.parametrize(("below", "above"), list(itertools.pairwise(list(RUNGS)[1:])))
def test_a_rung_adds_one_thing(below, above):
    one, other = (settings(config_to_dict(at(rung))) for rung in (below, above))
    assert {name for name in one if one[name] != other[name]} == CHANGED[above]


def test_the_ladder_stands_on_oneformer3d_and_ends_at_bifusion_without_views():
    top = dataclasses.replace(get_recipe(TOP), name="ladder")
    assert at("stages") == top
    lowest, baseline = at("head"), get_recipe(BASELINE)
    first, usual = (config.stages.stages[0].weights for config in (lowest, baseline))
    assert first == usual
    assert lowest.model.unet == baseline.model.unet and lowest.model.decoder == baseline.model.decoder
    assert lowest.trainer == baseline.trainer and lowest.data == baseline.data


def test_spreads():
    assert spread([0.5, 0.7]) == "0.600 ± 0.141" and spread([None]) == "–"
    assert spread([0.1], signed=True) == "+0.100"
