"""One step of the same scenes as one batch, or as several on one or two processes (gloo).

Run by `gloo.run_processes`, or imported: `python batches_of_a_step.py DATA OUT`; each process leaves
OUT/CASE.K.pt of every case.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from bifusion.data.batching import select_scenes
from bifusion.losses.context import annotation
from bifusion.sparse.modules import BatchNorm
from bifusion.step.runtime import as_launched
from bifusion.types import Batch
from step_factory import TinyStep, tiny_step
from tiny_runs import tiny_config

Told = tuple[dict[str, float | None], dict[str, torch.Tensor]]
"""Losses, and gradients by parameter."""
SCENES = (0, 1, 2, 0)
CASES: dict[str, tuple[list[list[int]], ...]] = {
    "even": ([[0], [1]], [[2], [3]]),
    "uneven": ([[0, 1], [2]], [[3], [0]]),  # the last one stands in
}
"""Batches of either process, by places among the scenes of `whole_batch`."""


def step_of(data: Path) -> TinyStep:
    """BatchNorm uses its running statistics, so that it is no matter what is in one batch."""
    config = tiny_config("bifusion_small", data)
    config.criterion.official_dice_scaling, config.criterion.score_min_iou = True, -1.0
    config.trainer = as_launched(config.trainer)
    step = tiny_step(config, scenes=SCENES)
    for module in step.stepper.model.modules():
        if isinstance(module, BatchNorm | torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return step


def whole_batch(step: TinyStep) -> Batch:
    """Of the scenes the second has no instances, the third no annotation at all."""
    batch = step.inputs.batches[0]
    first, second, third, last = annotation(batch)
    second, third = (
        dataclasses.replace(target, labels=target.labels[:0], masks=target.masks[:0])
        for target in (second, third)
    )
    unlabelled = torch.full_like(third.semantic, step.config.labels.num_classes)
    third = dataclasses.replace(third, semantic=unlabelled)
    return dataclasses.replace(batch, targets=[first, second, third, last])


def told_of(step: TinyStep, batches: list[Batch]) -> Told:
    """Of a step of these batches, which is not taken."""
    step.inputs.batches = batches
    outcome = step.stepper.compute(step.inputs, step.state)
    assert outcome.event is None
    named = step.stepper.model.module.named_parameters()
    gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
    step.stepper.discard()
    return outcome.losses | {"total": outcome.total}, gradients


def main(data: Path, out: Path) -> None:
    step = step_of(data)
    whole, process = whole_batch(step), step.stepper.fabric.global_rank
    for case, of_processes in CASES.items():
        batches = [select_scenes(whole, scenes) for scenes in of_processes[process]]
        if case == "uneven" and process == 1:
            batches[1] = dataclasses.replace(batches[1], counts=False)
        torch.save(told_of(step, batches), out / f"{case}.{process}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
