"""About how long runs take, by a step of each in each of its stages and a scene of validation."""

from __future__ import annotations

import heapq
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch

from bifusion.config.optim import freeze_outside_stage
from bifusion.config.run import Config
from bifusion.config.stages import StageState, Timeline
from bifusion.data.dataset import SceneDataset
from bifusion.data.loader import EpochLoader, make_loader
from bifusion.models.build import build_model
from bifusion.step.assembly import make_stepper
from bifusion.step.outcome import StepInputs
from bifusion.step.runtime import make_fabric
from bifusion.step.step import Stepper
from bifusion.training.validation import count_share, validation_loader
from bifusion.types import Batch

STEPS = 2
"""Timed ones of each stage, after one that warms up."""
PART_OF_STAGE = 0.75
"""Of a stage, at which it is measured: its ramps are over, a held gate is learned."""
FINAL_PASSES = 4
"""Of the final evaluation of a model that uses views: as it is, views withheld, features shuffled, and
the mean of its gate in the gate's place."""


def seconds_of_runs(
    configs: Sequence[Config], jobs: int, alike: Mapping[str, str] | None = None
) -> list[float]:
    """About how long each run takes where `jobs` share the cores; of runs of one recipe that differ in
    nothing that takes time one is measured, and of recipes that `alike` maps to one."""
    known: dict[tuple[object, ...], float] = {}
    told = []
    with _threads(max(1, (os.cpu_count() or 1) // jobs)):
        for config in configs:
            kind = _kind(config, alike or {})
            if kind not in known:
                known[kind] = seconds_of_run(config)
            told.append(known[kind])
    return told


def side_by_side(seconds: Sequence[float], jobs: int) -> float:
    """How long runs that take `seconds` each take together, `jobs` at a time and in this order."""
    ends = [0.0] * jobs
    for took in seconds:
        heapq.heapreplace(ends, ends[0] + took)
    return max(ends)


def _kind(config: Config, alike: Mapping[str, str]) -> tuple[object, ...]:
    """What the time of a recipe's run depends on."""
    trainer = config.trainer
    of_trainer = (trainer.precision, trainer.batch_size, trainer.accumulate, trainer.epochs)
    return alike.get(config.recipe, config.recipe), config.data.root, *of_trainer


def seconds_of_run(config: Config) -> float:
    """About how long training and evaluating `config` takes, in this process, with its threads.

    The image tower runs in every step that is measured; where it is frozen its features are kept on
    disk after the first epoch, so that the time is a little less.
    """
    trainer, fabric = config.trainer, make_fabric(config.trainer)
    model = build_model(config.model, config.seed, config.labels)
    stepper = make_stepper(config, fabric, model)
    timeline = Timeline(config.stages, trainer.epochs)
    dataset = SceneDataset(config.data, "train", config.seed, training=True)
    steps_an_epoch = math.ceil(len(dataset) / trainer.batch_size / trainer.accumulate)
    loader = make_loader(
        dataset, epoch=0, batch_size=trainer.batch_size, workers=0, shuffle=True, seed=config.seed
    )
    seconds = 0.0
    for first, end in timeline.bounds:
        state = timeline.at(first + PART_OF_STAGE * (end - first))
        freeze_outside_stage(stepper.may_train, state)
        batches = islice(loader, (1 + STEPS) * trainer.accumulate)
        seconds += (end - first) * steps_an_epoch * trainer.accumulate * _step(stepper, state, batches)
    return seconds + _validations(config, model, timeline, fabric.device)


def _step(stepper: Stepper, state: StageState, batches: Iterator[Batch]) -> float:
    """Mean time of a step on a batch and of loading it, without the first one."""
    stepper.model.train()
    times, began = [], time.perf_counter()
    for step, batch in enumerate(batches):
        stepper(StepInputs(step, 0.0, 0, [batch], {}), state)
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    timed = times[1:] or times
    return sum(timed) / len(timed)


def _validations(
    config: Config, model: torch.nn.Module, timeline: Timeline, device: torch.device
) -> float:
    """Time of all passes over the validation scenes, by the first of them."""
    loader = validation_loader(config, max_views=config.data.max_views)
    one = EpochLoader(loader.dataset, loader.batches[:1], loader.workers)
    began = time.perf_counter()
    control = timeline.at_end(timeline.epochs).control
    count_share(model, one, config, control, device=device).outcome()
    a_scene = time.perf_counter() - began
    epochs = {end for _, end in timeline.bounds}
    epochs |= set(range(config.trainer.eval_every, timeline.epochs + 1, config.trainer.eval_every))
    passes = len(epochs) + (FINAL_PASSES if config.uses_views else 1)
    return a_scene * len(loader.batches) * passes


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
