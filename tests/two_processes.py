"""Trains a tiny model on two processes (gloo), one of which meets NaN in some steps.

Run as `python tests/two_processes.py DATA RUN BAD_STEP …`; each process leaves RUN/processK.json.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from bifusion.config.guard import GuardConfig
from bifusion.losses.criterion import Criterion
from bifusion.runs.run_folder import RunFolder
from bifusion.step.runtime import make_fabric
from bifusion.step.step import Stepper
from bifusion.storage.json_files import to_json
from bifusion.training.trainer import Trainer
from tiny_runs import tiny_config


def break_second_process(bad_steps: list[int]) -> None:
    """Its loss term of these steps is NaN; that of the first process never."""
    compute, terms_of, current = Stepper.compute, Criterion.__call__, []

    def watched(self, inputs, state, **others):
        current[:] = [inputs.step]
        return compute(self, inputs, state, **others)

    def broken(self, *args):
        terms = terms_of(self, *args)
        bad = os.environ.get("LOCAL_RANK") == "1" and current[0] in bad_steps
        return {**terms, "mask_dice": terms["mask_dice"] * float("nan")} if bad else terms

    Stepper.compute, Criterion.__call__ = watched, broken


def main(data: Path, folder: Path, bad_steps: list[int]) -> None:
    torch.set_num_threads(1)
    break_second_process(bad_steps)
    config = tiny_config("oneformer3d_small", data, epochs=6)
    config.trainer.devices, config.trainer.batch_size, config.trainer.eval_every = 2, 1, 6
    config.trainer.guard = GuardConfig(rollback_after=2, ramp_steps=2, healthy_every=3)
    trainer = Trainer(config, RunFolder(folder), make_fabric(config.trainer))
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
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(step) for step in sys.argv[3:]])
