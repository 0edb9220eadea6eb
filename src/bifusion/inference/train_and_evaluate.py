"""One run from its configuration to its figures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bifusion.config.run import Config
from bifusion.inference.evaluate import evaluate_run
from bifusion.runs.run_folder import RunStatus
from bifusion.training.processes import group
from bifusion.training.train import train
from bifusion.training.trainer import OnEpoch


@dataclass(frozen=True)
class TrainedRun(os.PathLike[str]):
    """How a run ended. It stands for its folder wherever a path is expected."""

    folder: Path
    status: RunStatus
    evaluation: dict[str, Any] | None
    """What `evaluate_run` measured; None where the run was interrupted."""

    def __fspath__(self) -> str:
        return str(self.folder)


def train_and_evaluate(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    verify_data: bool = False,
    on_epoch: OnEpoch | None = None,
) -> TrainedRun:
    """Trains `config` into `folder` (see `train`) and evaluates its last checkpoint, unless a signal
    interrupted it: then `resume` goes on."""
    status = train(
        config,
        folder,
        resume=resume,
        accept_changes=accept_changes,
        verify_data=verify_data,
        on_epoch=on_epoch,
    )
    evaluation = None
    if status.state != "interrupted":
        with group.joined():
            # what had ended before has a checkpoint that knows only where the data lay then
            evaluation = evaluate_run(folder, own_data=config.data.root)
    return TrainedRun(folder, status, evaluation)
