"""A full training step of a recipe, with a breakdown and its peak memory, in a process of its own.

Run as `python -m benchmarks.steps RECIPE DATA SCENES`; prints JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.timing import clock, timing_of
from bifusion.config.optim import freeze_outside_stage, group_rates, set_rates
from bifusion.config.run import Config
from bifusion.config.stages import StageState, Timeline
from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.device_memory import most_resident_mb
from bifusion.losses.criterion import Criterion
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.build import build_model
from bifusion.models.model import Model
from bifusion.recipes import get_recipe
from bifusion.step.assembly import make_stepper
from bifusion.step.outcome import StepInputs
from bifusion.step.runtime import make_fabric
from bifusion.step.step import Stepper
from bifusion.types import Batch

FULL_SIZE_VIEWS = 4
FULL_SIZE_IMAGE = 320
STEPS = 3

Prepare = Callable[[int, Batch], tuple[StepInputs, StageState]]


def bench_step(recipe: str, data: Path, scenes: int, backend: str = "") -> dict[str, Any]:
    """The record of `run_steps` in a fresh process, whose peak memory is then the step's own."""
    environment = {**os.environ, "BIFUSION_SPARSE_BACKEND": backend}
    command = [sys.executable, "-m", __name__, recipe, str(data), str(scenes)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_steps(recipe: str, data: Path, scenes: int) -> dict[str, Any]:
    """Times steps of `recipe` at the middle of its last stage, on `scenes` scenes a step."""
    config = configured(recipe, data)
    torch.manual_seed(0)
    model = build_model(config.model, config.seed, config.labels)
    take_step, prepare = middle_of_last_stage(config, model)
    dataset = SceneDataset(config.data, "train", config.seed, training=True)
    parts: dict[str, float] = defaultdict(float)
    totals = []
    for step in range(STEPS + 1):
        if step == 1:  # the first step fills caches and the optimiser's moments
            parts.clear()
        with _timed(parts, "samples"):
            batch = make_batch(dataset, scenes, step)
        with observed(model, parts):
            started = clock()
            take_step(*prepare(step, batch))
            if step:
                totals.append(clock() - started)
    step_seconds = timing_of(totals)
    peak_mb = most_resident_mb()
    return {
        "recipe": recipe,
        "parameters": sum(p.numel() for p in model.parameters()),
        "voxels": len(batch.voxel_coords),
        "views": len(batch.views),
        "step": step_seconds.as_dict(),
        "parts": {name: seconds / STEPS for name, seconds in parts.items()},
        "peak_memory_mb": peak_mb,
    }


def configured(recipe: str, data: Path) -> Config:
    """The recipe on `data`, with an untrained tower (weights do not change the time of a step)."""
    config = get_recipe(recipe)
    config.data = dataclasses.replace(config.data, root=data)
    if isinstance(config.model, BiFusionConfig):
        tower = config.model.tower
        if tower is not None:
            config.model = config.model.with_tower(tower.with_weights(None))
        if "small" not in config.recipe:
            config.data.max_views = FULL_SIZE_VIEWS
            config.data.image_size = FULL_SIZE_IMAGE
    config.data.augment.no_views_probability = config.data.augment.fewer_views_probability = 0.0
    return config


def middle_of_last_stage(config: Config, model: Model) -> tuple[Stepper, Prepare]:
    """A stepper as a run has it, and what prepares its steps in the middle of the last stage."""
    stepper = make_stepper(config, make_fabric(config.trainer), model)
    timeline = Timeline(config.stages, config.trainer.epochs)
    first, end = timeline.bounds[-1]
    time = (first + end) / 2
    state = timeline.at(time)
    rates = group_rates(config.optim, list(stepper.groups))
    freeze_outside_stage(stepper.groups, state)
    model.train()

    def prepare(step: int, batch: Batch) -> tuple[StepInputs, StageState]:
        lr = set_rates(stepper.optimizer.optimizer, config.optim, rates, state, step, 1000)
        return StepInputs(step=step, time=time, seed=0, batches=[batch], rates=lr), state

    return stepper, prepare


def make_batch(dataset: SceneDataset, scenes: int, step: int) -> Batch:
    samples = [dataset.sample(index % len(dataset), epoch=step) for index in range(scenes)]
    for sample in samples:  # the real scan has two views: they stand for as many as are asked for
        if sample.views and len(sample.views) < dataset.config.max_views:
            copies = -(-dataset.config.max_views // len(sample.views))
            sample.views = (sample.views * copies)[: dataset.config.max_views]
    return collate(samples)


@contextmanager
def _timed(parts: dict[str, float], name: str) -> Iterator[None]:
    started = clock()
    yield
    parts[name] += clock() - started


@contextmanager
def observed(model: nn.Module, parts: dict[str, float]) -> Iterator[None]:
    """Adds to `parts` the forward time of the model's parts and of the criterion, and backward's."""
    hooks, started = [], {}
    for name, module in [("forward", model), *model.named_children()]:
        key = name if module is model else f"forward.{name}"

        def before(module: nn.Module, inputs: Any, key: str = key) -> None:
            started[key] = clock()

        def after(module: nn.Module, inputs: Any, output: Any, key: str = key) -> None:
            parts[key] += clock() - started[key]

        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    with (
        _wrapped(Criterion, "__call__", parts, "criterion"),
        _wrapped(torch.Tensor, "backward", parts, "backward"),
        _wrapped(torch.optim.AdamW, "step", parts, "optimizer"),
    ):
        yield
    for hook in hooks:
        hook.remove()


@contextmanager
def _wrapped(owner: type, method: str, parts: dict[str, float], name: str) -> Iterator[None]:
    original = getattr(owner, method)

    def timed(*args: Any, **kwargs: Any) -> Any:
        with _timed(parts, name):
            return original(*args, **kwargs)

    setattr(owner, method, timed)
    yield
    setattr(owner, method, original)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "2")))
    print(json.dumps(run_steps(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
