"""What monitor and guard cost: steps with all checks against steps without any, in turn, in one run.

Run as `python -m benchmarks.overhead RECIPE DATA SCENES`; prints JSON. What is done every so many steps
(update ratios, conflicts of loss terms, copies of the healthy state) is measured by itself and counted
by its share; so is the writing of the healthy state, though it goes on beside the steps. How long a run
takes to save when a signal ends it is measured with it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.steps import configured, make_batch, middle_of_last_stage
from benchmarks.timing import clock, timing_of
from bifusion.config.run import Config
from bifusion.data.dataset import SceneDataset
from bifusion.models.build import build_model
from bifusion.runs.checkpoint import HEALTHY, LAST, save_checkpoint
from bifusion.runs.healthy import HealthyState
from bifusion.runs.healthy_file import HealthyFile
from bifusion.step import step as step_module
from bifusion.step import watch as watch_module
from bifusion.step.checks import Statistics
from bifusion.step.guard import Guard
from bifusion.step.observe import gradient_norms
from bifusion.step.step import Stepper
from bifusion.step.watch import StepWatch
from bifusion.types import Batch, Prediction

PAIRS = 7
PERIODIC = 2
"""Measurements of each thing that is not done in every step."""


class Unwatching(StepWatch):
    """Looks at nothing but gradient norms, which clipping needs."""

    def batch(self, batch: Batch) -> None:
        pass

    def prediction(self, prediction: Prediction) -> None:
        pass

    def losses(self, *_: Any) -> None:
        pass

    def gradients(self, groups: dict[str, list[torch.nn.Parameter]], optimizer: Any) -> None:
        self._figures.put("gradient", gradient_norms(groups))


def bench_overhead(recipe: str, data: Path, scenes: int) -> dict[str, Any]:
    """The record of `run_overhead` in a fresh process."""
    command = [sys.executable, "-m", __name__, recipe, str(data), str(scenes)]
    done = subprocess.run(command, env=os.environ, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_overhead(recipe: str, data: Path, scenes: int) -> dict[str, Any]:
    """Seconds of a step watched and unwatched, and the watch's share of it, all told."""
    config = configured(recipe, data)
    rules = config.trainer.guard.rules
    every = {"updates": rules.updates_every, "conflicts": rules.conflicts_every}
    rules.updates_every = rules.conflicts_every = 0
    torch.manual_seed(0)
    model = build_model(config.model, config.seed, config.labels)
    stepper, prepare = middle_of_last_stage(config, model)
    dataset = SceneDataset(config.data, "train", config.seed, training=True)
    batch = make_batch(dataset, scenes, step=0)
    step = 0

    def seconds() -> float:
        nonlocal step
        step += 1
        inputs, state = prepare(step, batch)
        started = clock()
        stepper(inputs, state)
        return clock() - started

    seconds()
    pairs = []
    for _ in range(PAIRS):
        watched = seconds()
        with unwatched():
            pairs.append((watched, seconds()))
    with_all, without = (timing_of(list(times)) for times in zip(*pairs, strict=True))
    extra = {"every step": statistics.median(on - off for on, off in pairs)}
    for name in every:
        setattr(rules, f"{name}_every", 1)
        extra[name] = statistics.median(seconds() for _ in range(PERIODIC)) - with_all.seconds
        setattr(rules, f"{name}_every", 0)
    extra["healthy"], leaving = _seconds_of_saving(stepper, config)
    every["healthy"] = config.trainer.guard.healthy_every
    amortised = extra["every step"] + sum(max(0.0, extra[name]) / every[name] for name in every)
    return {
        "recipe": recipe,
        "voxels": len(batch.voxel_coords),
        "watched": with_all.as_dict(),
        "unwatched": without.as_dict(),
        "extra_seconds": extra,
        "every": every,
        "share": amortised / without.seconds,
        "leaving": leaving,
    }


@contextmanager
def unwatched() -> Iterator[None]:
    """Steps within it look at nothing, keep nothing and judge nothing."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(step_module, "StepWatch", Unwatching))
        stack.enter_context(patch.object(watch_module, "disagreeing_views", lambda _: []))
        for owner, methods in ((Guard, ("judge", "passed")), (Statistics, ("remember", "forget"))):
            for method in methods:
                stack.enter_context(patch.object(owner, method, lambda *_: None))
        yield


def _seconds_of_saving(stepper: Stepper, config: Config) -> tuple[float, dict[str, float]]:
    """Seconds of a healthy state, copied and written; and of the checkpoint that a signal asks for, in
    the middle of an epoch, with its size."""
    module, optimizer = stepper.model.module, stepper.optimizer.optimizer
    precision = stepper.fabric.strategy.precision
    keeping, leaving = [], []
    with tempfile.TemporaryDirectory(dir=".") as folder:  # where runs are: /tmp may be memory
        file = HealthyFile(Path(folder))
        for number in range(PERIODIC):
            started = clock()
            file.write(HealthyState.capture(module, optimizer, precision, step=0))
            file.rest()
            kept = clock()
            state = {"optimizer": optimizer.state_dict(), "time": 0.0}
            saved = save_checkpoint(
                Path(folder), module, config, state, step=number, links=(LAST,), from_disk=False,
                linked={HEALTHY: file.written},
            )  # fmt: skip
            leaving.append(clock() - kept)
            keeping.append(kept - started)
        written = sum(path.stat().st_size for path in saved.iterdir() if path.name != HEALTHY)
    return statistics.median(keeping), {"seconds": statistics.median(leaving), "bytes": written}


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "2")))
    print(json.dumps(run_overhead(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
