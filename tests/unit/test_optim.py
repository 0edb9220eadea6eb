"""Learning rates follow from the step alone; frozen parameters are left alone."""

import pytest
import torch
from torch import nn

from bifusion.config.optim import (
    OptimConfig,
    freeze_outside_stage,
    group_rates,
    make_optimizer,
    schedule_factor,
    set_rates,
)
from bifusion.config.stages import Ramp, Stage, StagePlan, Timeline, at_once


@pytest.mark.parametrize("schedule", ["poly", "cosine", "one_cycle"])
def test_schedules_end_at_the_final_factor(schedule):
    config = OptimConfig(schedule=schedule, final_factor=0.1)
    factors = [schedule_factor(config, step, 1000) for step in range(1001)]
    assert max(factors) == pytest.approx(1.0, abs=1e-3)
    assert factors[-1] == pytest.approx(0.1)
    assert max(abs(b - a) for a, b in zip(factors, factors[1:], strict=False)) < 0.01


def test_poly_is_that_of_the_official_recipe():
    assert schedule_factor(OptimConfig(), 256, 512) == pytest.approx(0.5**0.9)


def test_warm_up_rises_linearly_from_zero():
    config = OptimConfig(schedule="constant", warmup_steps=4)
    assert [schedule_factor(config, s, 100) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_fused_update_is_the_same_update():
    models = [nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(11, 7)
    for fused, model in zip((False, True), models, strict=True):
        groups = {"backbone": list(model.parameters())}
        optimizer = make_optimizer(groups, OptimConfig(lr=1e-2), fused=fused)
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_tower_rates_decay_with_depth():
    groups = ["tower.conv1_depth", "tower.embed", "tower.block0", "tower.block1", "tower.block2", "gate"]
    rates = group_rates(OptimConfig(rates={"tower.*": 0.1}, tower_layer_decay=0.5), groups)
    expected = {"tower.block2": 0.1, "tower.block1": 0.05, "tower.block0": 0.025, "tower.embed": 0.0125}
    assert rates == pytest.approx({**expected, "tower.conv1_depth": 0.0125, "gate": 1.0})


def test_biases_and_norms_are_not_decayed():
    layer, norm = nn.Linear(2, 3), nn.LayerNorm(3)
    groups = {"head_2d": [*layer.parameters(), *norm.parameters()]}
    optimizer = make_optimizer(groups, OptimConfig(weight_decay=0.05))
    decays = {len(part["params"]): part["weight_decay"] for part in optimizer.param_groups}
    assert decays == {1: 0.05, 3: 0.0}


def test_weight_decay_zero_keeps_every_parameter():
    layer = nn.Linear(2, 3)
    optimizer = make_optimizer({"head_2d": list(layer.parameters())}, OptimConfig(weight_decay=0.0))
    assert sum(len(part["params"]) for part in optimizer.param_groups) == 2


def test_frozen_groups_get_no_update_not_even_decay():
    """A group that trained before and has moments is not moved by them once it is frozen."""
    frozen, trained = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = {"tower.block0": list(frozen.parameters()), "decoder": list(trained.parameters())}
    config = OptimConfig(lr=0.1, weight_decay=0.5, schedule="constant")
    first = Stage("both", 1, {"*": at_once(1.0)}, {})
    second = Stage("one", 1, {"decoder": at_once(1.0)}, {})
    timeline = Timeline(StagePlan((first, second)), 2)
    optimizer = make_optimizer(groups, config)
    rates = group_rates(config, list(groups))

    def step(epoch):
        state = timeline.at(epoch)
        freeze_outside_stage(groups, state)
        lr = set_rates(optimizer, config, rates, state, 0, 10)
        trained(frozen(torch.ones(1, 2))).square().sum().backward()
        optimizer.step()
        return lr

    assert step(0.0) == {"tower.block0": 0.1, "decoder": 0.1}
    before = [p.clone() for p in frozen.parameters()], [p.clone() for p in trained.parameters()]
    assert step(1.0) == {"tower.block0": 0.0, "decoder": 0.1}
    assert all(p.equal(b) for p, b in zip(frozen.parameters(), before[0], strict=True))
    assert not any(p.equal(b) for p, b in zip(trained.parameters(), before[1], strict=True))


def test_a_group_that_starts_to_train_warms_up_from_zero():
    second = Stage("b", 1, {"*": Ramp(1.0, end=0.5)}, {})
    first = Stage("a", 1, {"decoder": at_once(1.0)}, {})
    timeline = Timeline(StagePlan((first, second)), 8)
    assert [timeline.at(e).lr_factor("gate") for e in (3, 4, 5, 6, 7)] == [0, 0, 0.5, 1, 1]
    assert [timeline.at(e).lr_factor("decoder") for e in (3, 4, 5)] == [1, 1, 1]
