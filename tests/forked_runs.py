"""What makes studies of generated rooms short enough for a test.

Runs are forks of one process that has imported everything, which takes a fresh one seconds. That they
train in fresh ones, as the product starts them, is shown by tests of resuming and of recipes from
outside.
"""

from __future__ import annotations

import os
from multiprocessing import get_context
from pathlib import Path

import torch

from bifusion import cli
from bifusion.datasets.rooms import RoomsConfig
from bifusion.studies.training_runs import train
from bifusion.studies.training_runs.forked import PRELOADED, ForkedRun
from bifusion.studies.training_runs.plan import PlannedRun


def start_forked_command(
    line: int, accept_changes: bool, run: PlannedRun, threads: int, slot: int
) -> ForkedRun:
    """In place of `train._start`: the same command in the same folder, its log in the same file."""
    context = get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "bifusion.commands.train"])
    process = context.Process(target=_command, args=(train._prepare(run), run.folder, threads))
    process.start()
    return ForkedRun(process)


def small_pretraining_rooms(count: int) -> RoomsConfig:
    """In place of `RoomsConfig.for_pretraining`."""
    return RoomsConfig(
        train_rooms=count, val_rooms=1, stream="pretraining", views=2, point_spacing_m=0.08
    )


def _command(config_file: Path, folder: Path, threads: int) -> None:
    with open(folder / "log.txt", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(threads)
    cli.main(["train", str(config_file), "--out", str(folder), "--resume"])
