"""A whole run of a tiny model on the pretended device, and where the host waited in it.

Run as `python tests/pretended_runs.py DATA FOLDER RECIPE …`, in a process of its own, as torch is told
of the device for good; prints JSON. It trains for an epoch, then a signal comes; resumed it trains for
two more, with a validation after each, and meets a loss that is NaN: diagnosis and replay file. That is
replayed on the CPU, as every replay is. Then the run predicts a room.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy

from bifusion.config.run import Config
from bifusion.config.stages import StageState
from bifusion.diagnosis.replay import replay
from bifusion.diagnosis.response import Response
from bifusion.inference.segmenter import Segmenter
from bifusion.losses.criterion import Criterion
from bifusion.models.build import build_model
from bifusion.step.outcome import StepInputs
from bifusion.step.step import Stepper
from bifusion.training import trainer, validation
from bifusion.training.train import train
from bifusion.training.trainer import Trainer
from pretended_device import DEVICE, Mixed, Stall, pretended
from pretended_engine import pretended_engine
from tiny_runs import tiny_config, tiny_mask3d

EPOCHS = 3
BAD_STEP = 2


class Accelerator(CPUAccelerator):
    """The device, to Fabric."""

    def setup_device(self, device: torch.device) -> None:
        pass


Places = list[list[str]]
"""[what the host waited for, where], once for every time."""


def main(data: Path, folder: Path, recipes: list[str]) -> None:
    torch.set_num_threads(1)
    record = {recipe: run_of(config_of(recipe, data), folder / recipe) for recipe in recipes}
    print(json.dumps(record | {"failures": failures(config_of("oneformer3d_small", data))}))


def config_of(recipe: str, data: Path) -> Config:
    config = tiny_mask3d(data) if recipe.startswith("mask3d") else tiny_config(recipe, data)
    config.trainer.epochs, config.trainer.evaluation_views = EPOCHS, 2
    if recipe == "bifusion_tiny":
        config.trainer.recompute = ("backbone", "decoder", "tower")
    config.trainer.guard.diagnose = recipe == "oneformer3d_small"  # one is enough, each takes many steps
    config.trainer.guard.rules.updates_every = config.trainer.guard.rules.conflicts_every = 0
    return config


def run_of(config: Config, folder: Path) -> dict[str, Any]:
    """Stalls of each part of the run, and what came of it."""
    stalls: dict[str, list[Places]] = {}
    with on_the_device() as met, ExitStack() as stack:
        watched = {
            "step": (Trainer, "_step"),
            "after a step": (Response, "after"),
            "validation of a batch": (validation.Counted, "add"),
            "prediction": (Segmenter, "_result"),
        }
        for part, (owner, name) in watched.items():
            noted = _noting(getattr(owner, name), met, stalls.setdefault(part, []))
            stack.enter_context(patch.object(owner, name, noted))
        stack.enter_context(_bad_loss_in(BAD_STEP))
        first = train(config, folder, on_epoch=_stop)
        second = train(config, folder, resume=True)
        bundles = sorted((folder / "bundles").glob("*.safetensors"))
        run = folder / "checkpoints" / "last"
        scene = config.data.root / "val" / "roomval0"
        with patch.object(torch, "inference_mode", torch.no_grad):  # torch's backend knows none
            Segmenter(folder, device=DEVICE).predict(scene).write(folder / "predicted")
    again = replay(bundles[0], trace=True)
    lines = (folder / "steps.jsonl").read_text().splitlines()
    return {
        "seconds": time.process_time(),
        "stalls": stalls,
        "states": [first.state, second.state],
        "events": [event and event["where"] for event in (json.loads(line)["event"] for line in lines)],
        "saved": run.is_dir(),
        "predicted": sorted(path.name for path in (folder / "predicted").rglob("*.*")),
        "replayed": again.fault and again.fault.where,
        "losses": [list(again.losses.values()), list(again.bundle.losses.values())],
    }


@contextmanager
def on_the_device() -> Iterator[list[Stall]]:
    """Runs train on the pretended device in this block."""

    def fabric(_: Any) -> Fabric:
        strategy = SingleDeviceStrategy(torch.device(DEVICE), accelerator=Accelerator())
        return Fabric(strategy=strategy)

    def built(*described: Any) -> Any:
        return build_model(*described).to(DEVICE)  # its parameters become others on the way

    with pretended() as stalls, pretended_engine(), ExitStack() as stack:
        stack.enter_context(patch("bifusion.training.train.make_fabric", fabric))
        stack.enter_context(patch.object(trainer, "build_model", built))
        yield stalls


def _noting(work: Callable, met: list[Stall], into: list[Places]) -> Callable:
    def noted(*args: Any, **kwargs: Any) -> Any:
        before = len(met)
        result = work(*args, **kwargs)
        into.append([[stall.kind, stall.place] for stall in met[before:]])
        return result

    return noted


def _stop(record: dict[str, Any]) -> None:
    if record["epoch"] == 0:
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _bad_loss_in(step: int) -> Iterator[None]:
    """The loss term "mask_dice" of that step is NaN."""
    compute, terms_of, current = Stepper.compute, Criterion.__call__, []

    def watched(self: Stepper, inputs: StepInputs, state: StageState, **others: Any) -> Any:
        current[:] = [inputs.step]
        return compute(self, inputs, state, **others)

    def broken(self: Criterion, *args: Any) -> Any:
        terms = terms_of(self, *args)
        return {**terms, "mask_dice": terms["mask_dice"] * torch.nan} if current == [step] else terms

    with patch.object(Stepper, "compute", watched), patch.object(Criterion, "__call__", broken):
        yield


def failures(config: Config) -> dict[str, Any]:
    """What the device says of a tensor that was left on the CPU, and of ways to wait."""
    model = build_model(config.model, config.seed, config.labels)
    with pretended() as stalls:
        x = torch.arange(4.0).to(DEVICE, non_blocking=True)
        model.to(DEVICE)
        model.decoder.out_norm.weight = torch.nn.Parameter(torch.ones(16))
        try:
            model.decoder.out_norm(torch.ones(2, 16).to(DEVICE, non_blocking=True))
            mixed = "nothing"
        except Mixed as error:
            mixed = str(error)
        stalls.clear()
        waits = {
            "item": lambda: x.sum().item(),
            "tolist": lambda: x.tolist(),
            "boolean indexing": lambda: x[x > 1],
            "nonzero": lambda: x.nonzero(),
            "unique": lambda: x.unique(),
            "bincount": lambda: x.long().bincount(),
            "copy to the CPU": lambda: x.cpu(),
            "equal": lambda: x.equal(x),
            "numpy": lambda: x.numpy(),
            "waiting copy to the device": lambda: torch.tensor([1.0], device=DEVICE),
        }
        counted = {}
        for name, wait in waits.items():
            try:
                wait()
            except TypeError as error:
                assert name == "numpy", error
            counted[name] = [stall.kind for stall in stalls]
            stalls.clear()
        free = [(x * 2).sum() + x.index_select(0, x.long()).max(), torch.zeros(3, device=DEVICE)]
        return {"mixed": mixed, "counted": counted, "free": [s.kind for s in stalls], "ran": len(free)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
