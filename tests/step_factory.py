"""A stepper of a tiny model on rooms of scene_factory, with the inputs of one step, without a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bifusion.config.optim import freeze_outside_stage, group_rates, set_rates
from bifusion.config.run import Config
from bifusion.config.stages import StageState, Timeline
from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.models.build import build_model
from bifusion.step.assembly import make_stepper
from bifusion.step.outcome import StepInputs
from bifusion.step.runtime import make_fabric
from bifusion.step.step import Stepper
from bifusion.types import Batch


@dataclass
class TinyStep:
    """All that one step needs, and `batch(...)` for others like it."""

    config: Config
    stepper: Stepper
    inputs: StepInputs
    state: StageState
    dataset: SceneDataset

    def batch(self, scenes: list[int], epoch: int = 0) -> Batch:
        """The scenes of those numbers in the data set."""
        return collate([self.dataset.sample(index, epoch) for index in scenes])


def tiny_step(
    config: Config, *, time: float | None = None, scenes: tuple[int, ...] = (0, 1)
) -> TinyStep:
    """A step at `time` (epochs; default: just before the end of the run, when all is trained)."""
    torch.set_num_threads(1)
    time = config.trainer.epochs - 0.5 if time is None else time
    fabric = make_fabric(config.trainer)
    model = build_model(config.model, config.seed, config.labels)
    stepper = make_stepper(config, fabric, model)
    groups, optimizer = stepper.groups, stepper.optimizer.optimizer
    state = Timeline(config.stages, config.trainer.epochs).at(time)
    freeze_outside_stage(stepper.may_train, state)
    rates = set_rates(optimizer, config.optim, group_rates(config.optim, list(groups)), state, 5, 100)
    model.train()
    dataset = SceneDataset(config.data, "train", config.seed, training=True)
    step = TinyStep(config, stepper, StepInputs(5, time, config.seed, [], rates), state, dataset)
    step.inputs.batches = [step.batch(list(scenes))]
    return step
