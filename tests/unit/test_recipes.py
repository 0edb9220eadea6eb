"""Recipes are complete, survive JSON, and mean what the study says."""

import dataclasses
import json

import pytest

from bifusion.commands.info import parameter_counts
from bifusion.config.run import config_from_dict, config_to_dict, load_config, save_config
from bifusion.config.stages import Ramp, StagePlan, Timeline, at_once, unmatched_patterns
from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.models.build import build_model
from bifusion.recipes import RECIPES, get_recipe
from bifusion.recipes.bifusion import (
    LOSS_WEIGHTS,
    S4_WEIGHTS,
    baseline,
    naive,
    plan_a,
    plan_b,
    shares_of_gradient,
)
from meta_models import meta_model


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete_and_survives_json(name):
    config = get_recipe(name)
    assert config.recipe == config.name == name
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    assert config.data.labels is None and config.labels.name == config.data.label_set
    assert config.model.unet.in_channels == config.data.feature_channels
    assert unmatched_patterns(config.stages, meta_model(config).parameter_groups()) == []
    Timeline(config.stages, config.trainer.epochs)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("oneformer3d_scannet20", 17_515_048),
        ("oneformer3d_scannet200", 44_559_760),
        ("mask3d_scannet20", 39_616_583),
    ],
)
def test_published_sizes(name, count):
    assert sum(parameter_counts(get_recipe(name)).values()) == count


@pytest.mark.parametrize("name", ["bifusion_scannet20_dinov2", "bifusion_scannet200_dinov2"])
def test_dinov2_is_whole_and_never_trains(name):
    config = get_recipe(name)
    counts = parameter_counts(config)
    tower = {group: count for group, count in counts.items() if group.startswith("tower.")}
    assert sum(tower.values()) == 86_579_712 and "tower.block11" in tower
    assert sum(counts.values()) == pytest.approx(132.5e6, abs=1e6)
    assert config.data.patch_size == 14 and config.model.tower.reads == "hub"
    for stage in config.stages.stages:
        assert not any(pattern.startswith("tower.") for pattern in stage.trains)
        assert stage.tower_gradient_scale.value == 0


def test_efficientnet_adapts_its_last_stages():
    last = get_recipe("bifusion_small_efficientnet").stages.stages[-1]
    tower = {name for name in last.trains if name.startswith("tower.")}
    assert tower == {"tower.block3", "tower.block4", "tower.conv1_depth"}


@pytest.mark.parametrize("name", ["bifusion_scannet20", "bifusion_scannet200"])
def test_full_bifusion_has_89_million_parameters(name):
    assert sum(parameter_counts(get_recipe(name)).values()) == pytest.approx(89e6, abs=1e6)


def test_arms_of_the_comparison_share_data_and_optimiser():
    staged = get_recipe("bifusion_small")
    for arm in ("without_views", "naive"):
        other = get_recipe(f"bifusion_small_{arm}")
        assert other.arm == arm
        assert other.trainer == staged.trainer
        assert dataclasses.replace(other.data, max_views=0) == dataclasses.replace(
            staged.data, max_views=0
        )
        rates = {"rates": {}, "tower_layer_decay": 1.0}
        assert dataclasses.replace(other.optim, **rates) == dataclasses.replace(staged.optim, **rates)


@pytest.mark.parametrize("arm", [baseline, plan_a])
def test_rivals_without_a_tower_keep_the_rates_of_what_they_have(arm):
    """As where a pretrained 3D network is tuned slowly: the rival's is the same one."""
    base = get_recipe("bifusion_small")
    base.optim.rates = {"backbone": 0.1, "tower.*": 0.2}
    assert arm(base).optim.rates == {"backbone": 0.1}


def test_plan_a_is_as_simple_as_the_baseline():
    config = get_recipe("bifusion_small_plan_a")
    assert config.model.tower is None
    assert config.model.fusion.fusion_type == "simple"
    weights = Timeline(config.stages, 24).at(5).weights
    assert [term for term, weight in weights.items() if weight != 0] == ["semantic"]
    assert not config.uses_views


def test_plan_b_puts_numerical_stability_first():
    optim = get_recipe("bifusion_scannet20_plan_b").optim
    assert (optim.clip_norm, optim.lr, optim.weight_decay) == (1.0, 1e-5, 1e-6)


def test_plan_b_clips_at_its_norm_whatever_its_base_does():
    base = get_recipe("bifusion_tiny")
    base.optim.clip_mode = "adaptive"
    assert plan_b(base).optim.clip_mode == "fixed"


def test_naive_keeps_the_losses_of_its_base():
    """All but the alignment, from the first step: all else is to be equal."""
    own = {"semantic": 0.7, "mask_bce": 0.8, "confident": 0.2}
    base = get_recipe("bifusion_tiny")
    first, second, third = base.stages.stages
    early = dataclasses.replace(first, weights={"semantic": at_once(0.7), "mask_bce": at_once(0.8)})
    late = {name: Ramp(weight, begin=0.5) for name, weight in own.items()}
    ends = dataclasses.replace(third, weights=late | {"alignment": at_once(0.3)})
    base.stages = StagePlan((early, second, ends))
    assert Timeline(naive(base).stages, 20).at(0).weights == own | {
        term: weight for term, weight in LOSS_WEIGHTS.items() if term not in own
    }


def test_who_uses_views():
    users = [name for name in RECIPES if "small" in name and get_recipe(name).uses_views]
    arms = ("naive", "plan_b", "2d_only", "gate_half", "lifted_rgb", "random_tower")
    bases = ("bifusion_small", "bifusion_small_efficientnet")
    assert sorted(users) == sorted([*bases, *(f"{base}_{arm}" for base in bases for arm in arms)])


def test_a_gate_that_is_shut_for_a_part_of_a_stage_uses_views_after_it():
    config = get_recipe("bifusion_tiny")
    for until, uses in ((1.0, False), (0.5, True)):
        shut = [
            dataclasses.replace(stage, fixed_alpha=0.0, fixed_alpha_until=until)
            for stage in config.stages.stages
        ]
        config.stages = StagePlan(tuple(shut))
        assert config.uses_views is uses
        assert (Timeline(config.stages, 20).at(19.9).control.fixed_alpha is None) is uses


def test_paired_seeds_start_from_the_same_backbone_and_decoder():
    baseline, fused, other = (
        build_model(get_recipe(recipe).model, seed, SCANNET20).state_dict()
        for recipe, seed in (("oneformer3d_small", 0), ("bifusion_small", 0), ("oneformer3d_small", 1))
    )
    same_shape = {n: t for n, t in baseline.items() if n in fused and t.shape == fused[n].shape}
    assert len(same_shape) > 100
    assert [n for n in same_shape if not same_shape[n].equal(fused[n])] == []
    weight = "decoder.out_cls.0.weight"
    assert not other[weight].equal(baseline[weight])


def test_get_recipe_gives_a_fresh_configuration():
    get_recipe("bifusion_small").trainer.epochs = 1
    assert get_recipe("bifusion_small").trainer.epochs != 1


def test_unknown_recipe_names_the_known_ones():
    with pytest.raises(InputError, match="'pointnet' is unknown; known are .*bifusion_small"):
        get_recipe("pointnet")


def test_a_misspelt_recipe_is_told_the_one_that_was_meant_alone():
    with pytest.raises(InputError, match="did you mean 'bifusion_small'.*--help` lists all$") as error:
        get_recipe("bifusion_smal")
    assert len(str(error.value)) < 150


def test_a_size_that_is_a_baseline_is_told_as_that():
    with pytest.raises(InputError, match="did you mean 'bifusion_tiny_baseline', OneFormer3D of that"):
        get_recipe("oneformer3d_tiny")


def test_config_file_round_trip(tmp_path):
    config = get_recipe("bifusion_small_naive")
    save_config(config, tmp_path / "run.json")
    assert load_config(tmp_path / "run.json") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(lerning_rate=1), "unknown field lerning_rate of Config; known are name"),
        (lambda d: d["optim"].update(lr="fast"), r"optim.lr: found 'fast', expected a number"),
        (lambda d: d["trainer"].update(epochs=2.5), r"trainer.epochs: found 2.5, expected int"),
        (lambda d: d["trainer"].update(precision="8"), r"trainer.precision: found '8', expected one of"),
        (lambda d: d.pop("arm"), "arm of Config is missing"),
        (lambda d: d.update(model_kind="pointnet"), "model_kind: found 'pointnet', expected one of"),
        (
            lambda d: d["data"].update(color_mean=[1.0]),
            r"data.color_mean: found \[1.0\], expected a list",
        ),
    ],
)
def test_a_misfit_configuration_is_an_input_error(tmp_path, change, message):
    value = config_to_dict(get_recipe("bifusion_small"))
    change(value)
    (tmp_path / "run.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "run.json")


def test_missing_and_damaged_configuration_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_config(tmp_path / "run.json")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_config(tmp_path / "run.json")


@pytest.mark.parametrize("base", ["bifusion_scannet20", "bifusion_scannet200"])
def test_full_size_baseline_is_a_fair_rival(base: str):
    """Same network, data, length and optimiser; what differs is what makes it OneFormer3D."""
    rival, staged = get_recipe(f"{base}_baseline"), get_recipe(base)
    assert rival.arm == "baseline" and rival.model_kind == "oneformer3d"
    assert rival.model.unet == staged.model.unet
    assert rival.data.augment == staged.data.augment
    assert rival.data.voxel_size_m == staged.data.voxel_size_m
    assert rival.trainer == staged.trainer
    assert rival.optim.lr == staged.optim.lr and rival.data.max_views == 0


def test_losses_have_the_studys_proportions_as_shares_of_the_gradient():
    weights = get_recipe("bifusion_scannet200").stages.stages[-1].weights
    assert {name: weights[name].value for name in S4_WEIGHTS} == shares_of_gradient(S4_WEIGHTS)
    assert weights["semantic"].value == 1.0
