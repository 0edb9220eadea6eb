"""A tiny model with its optimiser, between two steps: what guard and stages are tried on."""

import copy

import torch

from bifusion.config.optim import freeze_outside_stage, set_rates
from bifusion.runs.run_folder import RunFolder
from bifusion.step.outcome import StepInputs
from bifusion.step.runtime import make_fabric
from bifusion.training.trainer import Trainer
from tiny_runs import tiny_config


class Bench:
    """A tiny model with its optimiser after one good step, ready for a bad one."""

    def __init__(self, recipe, data, folder, epoch=2.5, precision="32-true"):
        config = tiny_config(recipe, data)
        config.trainer.precision = precision
        config.trainer.guard.diagnose = False  # it takes many steps, and has tests of its own
        self.trainer = Trainer(config, RunFolder(folder), make_fabric(config.trainer))
        self.model, self.optimizer = self.trainer.model.train(), self.trainer.optimizer
        self.batch = self.trainer.batches.of_step(0, 0)[0]
        self.state = self.trainer.timeline.at(epoch)
        freeze_outside_stage(self.trainer.take_step.may_train, self.state)
        self.rates = set_rates(self.optimizer, config.optim, self.trainer.base_rates, self.state, 0, 10)
        self.trainer.response.keep_healthy(0)
        assert self.step().event is None

    def step(self, *batches, step=0):
        inputs = StepInputs(step, 2.5, 0, list(batches) or [self.batch], self.rates)
        outcome = self.trainer.take_step(inputs, self.state)
        self.trainer.response.after(outcome, inputs, self.state, (0, 0))
        return outcome

    def snapshot(self):
        return (
            {name: tensor.clone() for name, tensor in self.model.state_dict().items()},
            copy.deepcopy(self.optimizer.state_dict()),
        )

    def unchanged_since(self, snapshot):
        weights, moments = snapshot
        now = self.optimizer.state_dict()["state"]
        same_weights = all(t.equal(weights[name]) for name, t in self.model.state_dict().items())
        same_moments = now.keys() == moments["state"].keys() and all(
            torch.equal(now[i][key], moments["state"][i][key]) for i in now for key in now[i]
        )
        return same_weights and same_moments
