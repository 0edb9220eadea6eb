"""Trains tiny runs on as many processes as are started (gloo); run by `gloo.run_processes`, or imported
for the same runs in one process.

Run as `several_runs.py DATA OUT CASE …`: each process leaves OUT/CASE/processK.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.distributed

import several_norms
from bifusion.config.guard import GuardConfig
from bifusion.config.run import Config
from bifusion.diagnosis.response import Response
from bifusion.losses.criterion import Criterion
from bifusion.runs.run_folder import RunFolder
from bifusion.step.runtime import as_launched, make_fabric
from bifusion.step.step import Stepper
from bifusion.storage.json_files import to_json
from bifusion.training.trainer import Trainer
from tiny_runs import tiny_config, tiny_mask3d, without_ramps

SCENES = 6
GLOBAL_BATCH = 4
"""Two steps an epoch, of four scenes and of two: of four processes two then have none of their own."""
BAD_STEPS = (2, 3, 6)
"""In which the second process, or the only one, meets a NaN."""
RATE, SMALL_EPS = 1e-4, 1e-5
"""What rounding decides is to stay small: the rate of the published recipes, not that of the small ones,
at which the order of scenes in a batch of one process alone moves weights by 10⁻⁵ in 20 steps. And
where a gradient is 0 but for rounding (biases that a softmax or a norm takes out), Adam makes a step of
full length of it."""


def _faulty(data: Path) -> Config:
    config = tiny_config("oneformer3d_small", data, epochs=4)
    config.trainer.guard = GuardConfig(rollback_after=2, max_rollbacks=3, ramp_steps=2, diagnose=False)
    return config


def _like_sized(data: Path) -> Config:
    config = tiny_config("oneformer3d_small", data, epochs=10)
    config.trainer.like_sized = True
    return config


CASES: dict[str, Callable[[Path], Config]] = {
    "oneformer3d": _like_sized,
    "resumed": _like_sized,
    "bifusion": lambda data: tiny_config("bifusion_small", data, epochs=5),
    "mask3d": lambda data: tiny_mask3d(data, epochs=10),
    "faulty": _faulty,
}


def config_of(case: str, data: Path, processes: int) -> Config:
    """The configuration of a case, its global batch shared out."""
    config = CASES[case](data)
    config.stages = without_ramps(config.stages)
    config.optim = dataclasses.replace(config.optim, lr=RATE, eps=SMALL_EPS)
    config.trainer.batch_size = GLOBAL_BATCH // processes
    config.trainer.eval_every = 100
    config.trainer = as_launched(config.trainer)
    return config


@contextmanager
def bad_steps(processes: int) -> Iterator[None]:
    """One process's loss term of these steps is NaN."""
    terms_of, compute, current = Criterion.__call__, Stepper.compute, []

    def watched(self, inputs, state, **others):
        own = self.fabric.global_rank == min(1, processes - 1)
        current[:] = [own and inputs.step in BAD_STEPS]
        return compute(self, inputs, state, **others)

    def broken(self, *args):
        terms = terms_of(self, *args)
        return {**terms, "mask_dice": terms["mask_dice"] * float("nan")} if current[0] else terms

    Stepper.compute, Criterion.__call__ = watched, broken
    try:
        yield
    finally:
        Stepper.compute, Criterion.__call__ = compute, terms_of


@contextmanager
def stopped_within_an_epoch() -> Iterator[None]:
    """The first process gets SIGTERM after five steps; two make an epoch."""
    after = Response.after

    def followed(self, outcome, inputs, state, place):
        after(self, outcome, inputs, state, place)
        if inputs.step == 4 and self.stepper.fabric.global_rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    Response.after = followed
    try:
        yield
    finally:
        Response.after = after


def run_case(case: str, data: Path, folder: Path, processes: int) -> Trainer:
    """Trains it; the trainer afterwards."""
    config = config_of(case, data, processes)
    fabric = make_fabric(config.trainer)
    trainer = Trainer(config, RunFolder(folder), fabric)
    around = {"faulty": bad_steps(processes), "resumed": stopped_within_an_epoch()}
    with around.get(case, nullcontext()):
        trainer.run()
    if case == "resumed":
        trainer = Trainer(config, RunFolder(folder), fabric)
        trainer.run()
    return trainer


def main(data: Path, out: Path, cases: list[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    several_norms.check()
    print("norms and gradients are right")
    for case in cases:
        trainer = run_case(case, data, out / case, int(os.environ["WORLD_SIZE"]))
        digest = hashlib.sha256()
        for tensor in trainer.model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        record = {"digest": digest.hexdigest(), "guard": trainer.guard.state_dict()}
        path = out / case / f"process{trainer.fabric.global_rank}.json"
        path.write_text(json.dumps(to_json(record)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
