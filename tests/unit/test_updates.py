"""‖Δw‖/‖w‖ by gradient path."""

import math

import pytest
import torch
from torch import nn

from bifusion.step.updates import WeightsBefore


def weights(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def move(parameter: nn.Parameter, *by: float) -> None:
    with torch.no_grad():
        parameter += torch.tensor(by)


def test_ratio_of_each_path():
    groups = {
        "backbone": [weights(3.0, 4.0), weights(0.0)],
        "film": [weights(5.0)],
        "gate": [weights(12.0)],
    }
    before = WeightsBefore(groups)
    move(groups["backbone"][0], 0.3, 0.4)
    move(groups["gate"][0], -1.3)
    ratios = before.ratios()
    assert ratios == pytest.approx({"backbone": 0.1, "fusion": 0.1})


def test_frozen_paths_and_weights_of_zero_are_left_out():
    frozen = weights(1.0).requires_grad_(False)
    before = WeightsBefore({"tower.embed": [frozen], "align": [weights(0.0)], "decoder": [weights(1.0)]})
    assert before.ratios() == {"decoder": 0.0}
    assert WeightsBefore({"tower.embed": [frozen]}).ratios() == {}


def test_a_channel_that_starts_at_zero_is_measured_beside_the_frozen_ones():
    depth = weights(0.0)
    before = WeightsBefore(
        {"tower.conv1_rgb": [weights(4.0).requires_grad_(False)], "tower.conv1_depth": [depth]}
    )
    move(depth, 0.01)
    assert before.ratios() == pytest.approx({"conv1": 0.0025})


def test_what_the_optimiser_breaks_is_told():
    groups = {"decoder": [weights(1.0)], "backbone": [weights(1.0)]}
    before = WeightsBefore(groups)
    move(groups["decoder"][0], math.nan)
    ratios = before.ratios()
    assert math.isnan(ratios["decoder"]) and ratios["backbone"] == 0.0


def test_the_step_of_an_optimiser():
    parameter = weights(*[2.0] * 100)
    optimizer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.0)
    parameter.grad = torch.full((100,), 1e-6)
    before = WeightsBefore({"decoder": [parameter]})
    optimizer.step()
    assert before.ratios()["decoder"] == pytest.approx(0.01 / 2, rel=0.02)
