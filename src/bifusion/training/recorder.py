"""Writes what a run leaves behind: steps.jsonl, epochs.jsonl, status.json, TensorBoard, the screen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from lightning_fabric.loggers.logger import Logger
from torch.utils.tensorboard import SummaryWriter

from bifusion.config.stages import StageState
from bifusion.runs.run_folder import RunFolder, RunStatus, State
from bifusion.step.guard import GuardCounts
from bifusion.step.observe import UNMEASURED
from bifusion.step.outcome import StepOutcome
from bifusion.storage.json_files import write_json
from bifusion.training.display import Display

DONE = {
    "skip": "step skipped",
    "rollback": "back to the last healthy state",
    "stop": "run stopped",
}


@dataclass
class Progress:
    """Where a run stands; all of it is in a checkpoint, so that a resumed run repeats exactly."""

    epoch: int = 0
    """The epoch in progress, or the next one."""
    batch: int = 0
    """Batches of it consumed."""
    step: int = 0
    """Optimiser steps attempted in the run, skipped ones included."""
    seconds: float = 0.0
    best_metric: float = -math.inf
    finite_epochs: int = 0
    """Row of epochs without a non-finite step, up to now."""
    longest_finite: int = 0
    epoch_nonfinite: int = 0
    """Non-finite steps of the epoch in progress."""
    epoch_skipped: int = 0
    epoch_rollbacks: int = 0
    epoch_warnings: int = 0
    epoch_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the scenes of the epoch in progress of their steps' finite losses, by term."""
    counts: dict[str, int] = field(default_factory=dict)
    """Scenes that are in a sum: a short last step counts as much as it has scenes."""

    def count_step(self, outcome: StepOutcome, batches: int, seconds: float) -> None:
        """Takes in one optimiser step over `batches` batches."""
        self.batch += batches
        self.step += 1
        self.seconds += seconds
        self.epoch_seconds += seconds
        fault = outcome.event
        self.epoch_nonfinite += fault is not None and fault.nonfinite
        self.epoch_skipped += fault is not None
        self.epoch_rollbacks += fault is not None and fault.action == "rollback"
        self.epoch_warnings += len(outcome.alarms)
        if outcome.total is None:  # what losses there are belong to no whole step
            return
        scenes = len(outcome.scenes)
        for term, value in {**outcome.losses, "total": outcome.total}.items():
            if math.isfinite(value):
                self.sums[term] = self.sums.get(term, 0.0) + value * scenes
                self.counts[term] = self.counts.get(term, 0) + scenes

    def close_epoch(self, complete: bool) -> None:
        """Counts the epoch towards the row of finite ones; one cut short ends the row."""
        clean = complete and self.epoch_nonfinite == 0
        self.finite_epochs = self.finite_epochs + 1 if clean else 0
        self.longest_finite = max(self.longest_finite, self.finite_epochs)

    def next_epoch(self) -> None:
        """Starts the epoch after this one."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.epoch_nonfinite = self.epoch_skipped = self.epoch_rollbacks = self.epoch_warnings = 0
        self.epoch_seconds = 0.0
        self.sums, self.counts = {}, {}


class Recorder:
    """Records of one run in its folder; use as a context manager.

    `active` False (processes other than the first): nothing is written or shown.
    """

    def __init__(
        self,
        folder: RunFolder,
        name: str,
        progress: Progress,
        display: Display,
        *,
        active: bool,
        logger: Logger | None = None,
    ):
        """`logger`: gets the curves that TensorBoard gets, too, and is closed at the end."""
        self.folder, self.name, self.progress, self.display = folder, name, progress, display
        self.active, self._logger = active, logger
        self.state: State | None = None
        """What status.json was last made to say."""

    def __enter__(self) -> Recorder:
        """Drops the records of steps that a resumed run is going to repeat."""
        self.display.__enter__()
        if self.active:
            self.folder.keep_lines_before(self.folder.steps, "step", self.progress.step)
            self.folder.keep_lines_before(self.folder.epochs, "epoch", self.progress.epoch)
            self._curves = SummaryWriter(str(self.folder.tensorboard), purge_step=self.progress.step)
        return self

    def __exit__(self, *error: object) -> None:
        if self.active:
            self._curves.close()
        if self._logger is not None:
            self._logger.finalize("failed" if error[0] is not None else "success")
        self.display.__exit__(*error)

    def step(
        self,
        outcome: StepOutcome,
        state: StageState,
        lr: dict[str, float],
        seconds: float,
        peak_memory_mb: float,
    ) -> None:
        """Records the optimiser step that `progress` has not counted yet."""
        progress = self.progress
        self.display.step(progress.step + 1, progress.epoch, state.stage.name, outcome.total)
        for line in _notices(outcome):
            self.display.line(f"{self.name}: step {progress.step}: {line}")
        if not self.active:
            return
        record = {
            "step": progress.step,
            "epoch": progress.epoch,
            "stage": state.stage.name,
            "scenes": outcome.scenes,
            "losses": outcome.losses,
            "weights": state.weights,
            "total": outcome.total,
            "lr": lr,
            "grad_norm": outcome.grad_norm,
            "grad_norm_clipped": outcome.grad_norm_clipped,
            **UNMEASURED,
            **outcome.fusion,
            "seconds": seconds,
            "peak_memory_mb": peak_memory_mb,
            "event": outcome.event.record() if outcome.event else None,
            "scaler_overflow": outcome.scaler_overflow,
            "loss_scale": outcome.loss_scale,
            "update_ratio": outcome.update_ratio,
            "conflicts": outcome.conflicts,
            "statistics": outcome.statistics,
            "disagreeing_views": outcome.disagreeing_views,
            "alarms": [alarm.record() for alarm in outcome.alarms],
        }
        self.folder.append(self.folder.steps, record)
        self._draw("loss", {**outcome.losses, "total": outcome.total})
        self._draw("gradient", outcome.grad_norm)

    def epoch(self, stage: str, val: dict[str, Any] | None) -> dict[str, Any]:
        """Records the epoch in progress and returns the record; `val` is its validation, if one was
        made."""
        progress = self.progress
        record = {
            "epoch": progress.epoch,
            "stage": stage,
            "train": {term: total / progress.counts[term] for term, total in progress.sums.items()},
            "val": val,
            "raw_nonfinite": progress.epoch_nonfinite,
            "skipped": progress.epoch_skipped,
            "rollbacks": progress.epoch_rollbacks,
            "warnings": progress.epoch_warnings,
            "seconds": progress.epoch_seconds,
        }
        self.display.epoch(record)
        if self.active:
            self.folder.append(self.folder.epochs, record)
            figures = ("miou", "ap", "ap50", "pq", "fusion_2d_ratio")
            self._draw("val", {key: (val or {}).get(key) for key in figures})
        return record

    def status(
        self,
        state: State,
        counts: GuardCounts,
        reason: str | None = None,
        summary: str | None = None,
        *,
        told: bool = True,
    ) -> RunStatus:
        """Writes status.json and returns what it says; `told` False: the reason is told elsewhere."""
        status = RunStatus(
            state=state,
            reason=reason,
            epochs_done=self.progress.epoch,
            steps=self.progress.step,
            raw_nonfinite=counts.raw_nonfinite,
            skipped=counts.skipped,
            rollbacks=counts.rollbacks,
            warnings=counts.warnings,
            finite_epochs_in_a_row=self.progress.longest_finite,
            seconds=self.progress.seconds,
            summary=summary,
        )
        if self.active:
            write_json(self.folder.status, status)
            self._curves.flush()
        self.state = state
        if state != "running":
            self.display.line(f"{self.name}: {state}" + (f" ({reason})" if reason and told else ""))
        if summary is not None:
            self.display.line(summary)
        return status

    def _draw(self, group: str, values: dict[str, float | None]) -> None:
        known = {f"{group}/{name}": value for name, value in values.items() if value is not None}
        for name, value in known.items():
            self._curves.add_scalar(name, value, self.progress.step)
        if self._logger is not None and known:
            self._logger.log_metrics(known, self.progress.step)


def _notices(outcome: StepOutcome) -> list[str]:
    """What a step met that a user should see as it happens, a line each."""
    lines = [f"warning, {alarm.message}" for alarm in outcome.alarms]
    fault = outcome.event
    if fault is not None:
        cause = f": {fault.diagnosis['explanation']}" if fault.diagnosis else ""
        lines.append(f"{fault.rule} in {', '.join(fault.where)}, {DONE[fault.action]}{cause}")
    return lines
