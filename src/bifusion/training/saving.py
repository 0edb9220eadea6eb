"""Everything that later steps of a run depend on, into checkpoints and back."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from bifusion.config.run import Config
from bifusion.diagnosis.response import Response
from bifusion.official.initial_weights import load_backbone
from bifusion.runs.checkpoint import HEALTHY, save_checkpoint
from bifusion.runs.healthy_file import HealthyFile
from bifusion.runs.resume_point import ResumePoint, find_resume_point, settle
from bifusion.runs.run_folder import RunFolder
from bifusion.runs.trained_model import load_weights
from bifusion.step.step import Stepper
from bifusion.storage.checksums import WrittenFile
from bifusion.training.recorder import Progress

_logger = logging.getLogger(__name__)


class Saving:
    """Checkpoints of one run; the first process writes, all of them read."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        stepper: Stepper,
        response: Response,
        healthy_file: HealthyFile,
    ):
        self.config, self.folder, self.stepper, self.response = config, folder, stepper, response
        self.fabric, self.model = stepper.fabric, stepper.model.module
        self.optimizer = stepper.optimizer.optimizer
        self.healthy_file = healthy_file
        self.saved_at = (0, 0)
        """Epoch and batch of the last checkpoint; a run that has just begun needs none."""

    def save(self, progress: Progress, time: float, links: list[str], *, from_disk: bool = True) -> None:
        """Writes a checkpoint of the run after `time` epochs; see `save_checkpoint`."""
        if self.fabric.is_global_zero:
            self.folder.flush_records()
            save_checkpoint(
                self.folder.checkpoints,
                self.model,
                self.config,
                {**self._state(), "progress": asdict(progress), "time": time},
                step=progress.step,
                links=links,
                from_disk=from_disk,
                linked={} if self.response.is_at_healthy else {HEALTHY: self._healthy_written},
            )
        self.saved_at = (progress.epoch, progress.batch)
        self.fabric.barrier()

    def is_saved(self, progress: Progress) -> bool:
        """Nothing has happened since the last checkpoint."""
        return self.saved_at == (progress.epoch, progress.batch)

    def take_up(self) -> Progress:
        """Goes on from the newest intact checkpoint; where there is none, from the start with its
        initial weights, and says so if the run had begun."""
        point, progress = find_resume_point(self.folder.checkpoints), Progress()
        if point is not None:
            load_weights(self.model, point.checkpoint)
            self._load_state(point)
            progress = Progress(**point.state["progress"])
        elif self.config.trainer.init is not None:
            load_backbone(self.model, self.config.trainer.init)
        if self.response.healthy is None:
            self.response.keep_healthy(progress.step)
        self.saved_at = (progress.epoch, progress.batch)
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            settle(self.folder.checkpoints, point)
            if point is None:
                self._tell_lost()
        return progress

    def follow(self) -> None:
        """Begins to write a healthy state that is new. Called after every step: not at an epoch's end,
        where a checkpoint of the same state is about to be written, nor when the run is over."""
        healthy = self.response.healthy
        if self.fabric.is_global_zero and healthy is not None and healthy is not self.healthy_file.state:
            self.healthy_file.write(healthy)

    def rest(self) -> None:
        """Waits until nothing is being written, as before processes are started."""
        self.healthy_file.rest()

    def close(self) -> None:
        """Leaves nothing but checkpoints."""
        self.healthy_file.close()

    def _tell_lost(self) -> None:
        """Says how much of a run ended before its first checkpoint; its records are dropped."""
        steps = self.folder.read_lines(self.folder.steps)
        if steps:
            _logger.warning(
                "%s: the run ended before its first checkpoint; it starts again from the beginning, its "
                "%d steps (of %d epochs) are trained again",
                self.folder.root,
                len(steps),
                steps[-1]["epoch"] + 1,
            )

    def _healthy_written(self) -> WrittenFile:
        self.follow()
        return self.healthy_file.written()

    def _state(self) -> dict[str, Any]:
        stepper = self.stepper
        return {
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "guard": stepper.guard.state_dict(),
            "clipping": stepper.clipping.state_dict(),
            "response": self.response.state_dict(),
        }

    def _load_state(self, point: ResumePoint) -> None:
        state = point.state
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.stepper.guard.load_state_dict(state["guard"])
        self.stepper.clipping.load_state_dict(state["clipping"])
        self.response.load_state_dict(state["response"], point.healthy)
