"""Trains a tiny model on two processes (gloo), one of which meets NaN in some steps.

Run as `python tests/two_processes.py DATA RUN BAD_GRADIENT_STEP BAD_LOSS_STEP …`; each process leaves
RUN/processK.json.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from laboratory.faults import change_gradient
from torch import Tensor, nn

from bifusion.config.guard import GuardConfig
from bifusion.losses.criterion import Criterion
from bifusion.runs.run_folder import RunFolder
from bifusion.step.runtime import make_fabric
from bifusion.step.step import Stepper
from bifusion.storage.json_files import to_json
from bifusion.training.trainer import Trainer
from tiny_runs import tiny_config

BROKEN = "decoder.input_proj"
"""The module that makes a gradient NaN."""


def break_second_process(bad_steps: list[int]) -> list[int]:
    """Its loss term of these steps is NaN; that of the first process never. [the step at hand]"""
    compute, terms_of, current = Stepper.compute, Criterion.__call__, [-1]

    def watched(self, inputs, state, **others):
        current[:] = [inputs.step]
        return compute(self, inputs, state, **others)

    def broken(self, *args):
        terms = terms_of(self, *args)
        bad = is_second() and current[0] in bad_steps
        return {**terms, "mask_dice": terms["mask_dice"] * float("nan")} if bad else terms

    Stepper.compute, Criterion.__call__ = watched, broken
    return current


def break_gradient(model: nn.Module, bad_step: int, current: list[int]) -> None:
    """The gradient that the second process's BROKEN hands on in this step is NaN."""

    def strike(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        bad = is_second() and current[0] == bad_step
        return change_gradient(output, lambda g: g * float("nan")) if bad else output

    model.get_submodule(BROKEN).register_forward_hook(strike)


def is_second() -> bool:
    return os.environ.get("LOCAL_RANK") == "1"


def main(data: Path, folder: Path, bad_gradient: int, bad_losses: list[int]) -> None:
    torch.set_num_threads(1)
    current = break_second_process(bad_losses)
    config = tiny_config("oneformer3d_small", data, epochs=6)
    config.trainer.devices, config.trainer.batch_size, config.trainer.eval_every = 2, 1, 6
    config.trainer.guard = GuardConfig(rollback_after=2, ramp_steps=2, healthy_every=3)
    trainer = Trainer(config, RunFolder(folder), make_fabric(config.trainer))
    break_gradient(trainer.model, bad_gradient, current)
    status = trainer.run()
    digest = hashlib.sha256()
    for tensor in trainer.model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    for moments in trainer.optimizer.state_dict()["state"].values():
        digest.update(moments["exp_avg"].numpy().tobytes())
    record = {
        "status": status,
        "digest": digest.hexdigest(),
        "guard": trainer.guard.state_dict(),
        "healthy_step": trainer.response.healthy.step,
    }
    path = folder / f"process{trainer.fabric.global_rank}.json"
    path.write_text(json.dumps(to_json(record)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), [int(step) for step in sys.argv[4:]])
