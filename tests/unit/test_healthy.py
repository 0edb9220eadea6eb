"""The copy that a rollback goes back to: exact, independent, stored once."""

import torch
from lightning_fabric.plugins.precision import MixedPrecision
from torch import nn
from torch.amp import GradScaler

from bifusion.runs.healthy import HealthyState


def trained(steps=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    precision = MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=8.0))
    precision.scaler.scale(torch.ones(()))  # it makes its factor when it is first used
    for _ in range(steps):
        take_step(model, optimizer)
    return model, optimizer, precision


def take_step(model, optimizer):
    model(torch.randn(5, 3)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def everything(model, optimizer, precision):
    moments = optimizer.state_dict()["state"]
    tensors = [*model.state_dict().values()]
    tensors += [moments[i][key] for i in sorted(moments) for key in sorted(moments[i])]
    return [tensor.clone() for tensor in tensors], precision.state_dict()


def equal(first, second):
    return first[1] == second[1] and all(map(torch.equal, first[0], second[0]))


def test_restoring_is_exact_and_can_be_repeated():
    state = trained()
    before, healthy = everything(*state), HealthyState.capture(*state, step=2)
    for _ in range(2):  # what comes after the first restore does not write into the copy
        for _ in range(3):
            take_step(*state[:2])
        state[2].scaler.update(1.0)
        assert not equal(everything(*state), before)
        healthy.restore(*state)
        assert equal(everything(*state), before)


def test_moments_of_weights_that_had_none_vanish():
    state = trained(steps=0)
    healthy = HealthyState.capture(*state, step=0)
    take_step(*state[:2])
    healthy.restore(*state)
    assert not state[1].state_dict()["state"]


def test_the_same_state_is_told_from_others():
    state = trained()
    healthy = HealthyState.capture(*state, step=2)
    state[1].param_groups[0]["lr"] = 0.5  # set anew every step
    assert healthy.is_present(*state)
    take_step(*state[:2])
    assert not healthy.is_present(*state)
    healthy.restore(*state)
    assert healthy.is_present(*state)
    state[2].scaler.update(4.0)
    assert not healthy.is_present(*state)
