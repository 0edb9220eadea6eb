"""What follows a step: after a fault its diagnosis, a replay file, a rollback; else healthy copies."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from bifusion.config.run import Config
from bifusion.config.stages import StageState
from bifusion.device_memory import MEMORY_ERRORS, is_full, told_by
from bifusion.diagnosis.bundle import write_bundle
from bifusion.diagnosis.diagnose import diagnose
from bifusion.diagnosis.experiments import Experiments
from bifusion.diagnosis.rerun import RERUN_ERRORS
from bifusion.diagnosis.summary import stop_summary
from bifusion.errors import InputError
from bifusion.runs.healthy import HealthyState
from bifusion.runs.run_folder import RunFolder
from bifusion.step.checks import is_sound
from bifusion.step.events import Fault
from bifusion.step.outcome import StepInputs, StepOutcome
from bifusion.step.step import Stepper
from bifusion.types import Batch

_logger = logging.getLogger(__name__)

Place = tuple[int, int]
"""(epoch, batches of it consumed) before a step: the batches it was made of can be had again."""

MOST_STUDIED = 20
"""Kinds of faults a run; each takes the time of some ten steps. A stop waits for it: a run that went on
without would have a later fault of the kind diagnosed in its place."""


class Response:
    """Acts after every step; all that it knows is in a checkpoint."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        stepper: Stepper,
        batches_at: Callable[[int, int], list[Batch]],
        *,
        before_copy: Callable[[], None],
    ):
        """`batches_at`: those of the step at a place. `before_copy` is called before a new healthy state
        is copied: who still holds the old one lets go of it."""
        self.config, self.folder, self.stepper, self.guard = config, folder, stepper, stepper.guard
        self.batches_at, self.before_copy = batches_at, before_copy
        self.healthy: HealthyState | None = None
        self.known: dict[str, dict[str, Any]] = {}
        """Kind of fault -> "diagnosis" and "bundle" of the first one."""
        self.bundles = 0
        """Replay files written."""
        self.last_good: Place | None = None

    def after(self, outcome: StepOutcome, inputs: StepInputs, state: StageState, place: Place) -> None:
        """Follows the step that was made of the batches at `place`."""
        fault = outcome.event
        if fault is not None:
            self._study(fault, inputs, state)
            if fault.action == "rollback":
                assert self.healthy is not None, "a run keeps its healthy state from the start"
                self.healthy.restore(*self._state())
                self.guard.rolled_back(inputs.step)
        elif not outcome.scaler_overflow:
            self.last_good = place
            if (inputs.step + 1) % self.guard.config.healthy_every == 0 and not outcome.alarms:
                self.keep_healthy(inputs.step + 1)

    def keep_healthy(self, step: int) -> None:
        """Copies the state before step `step` as the last healthy one, unless a fault came last or
        something in it is not finite, whoever put it there."""
        if self.healthy is not None:
            if self.guard.counts.in_a_row > 0 or not self._is_sound():
                return
            self.healthy = None  # the old copy's memory is free before the new one takes its own
            self.before_copy()
        self.healthy = HealthyState.capture(*self._state(), step)

    def _is_sound(self) -> bool:
        """Weights, statistics and moments are finite, on all processes."""
        model, optimizer, _ = self._state()
        return all(self.stepper.processes.gather(is_sound(model, optimizer)))

    def summary(self, fault: Fault) -> str:
        """What a run that ends with `fault` says."""
        known = self.known.get(kind_of(fault), {})
        bundle = self.folder.root / known["bundle"] if known.get("bundle") else None
        return stop_summary(fault, self.guard, known.get("diagnosis"), bundle)

    @property
    def is_at_healthy(self) -> bool:
        """The present state is the last healthy one, to the bit."""
        return self.healthy is not None and self.healthy.is_present(*self._state())

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; the healthy state has a file of its own."""
        return {
            "healthy": self.healthy.step if self.healthy else None,
            "known": self.known,
            "bundles": self.bundles,
            "last_good": list(self.last_good) if self.last_good else None,
        }

    def load_state_dict(self, state: dict[str, Any], healthy: HealthyState | None) -> None:
        """Takes what `state_dict` gave, and the healthy state; None: it is that of the checkpoint,
        which model and optimiser are in."""
        step = state["healthy"]
        if isinstance(step, dict):  # as version 0.1 saved it, in one file
            healthy = HealthyState(**step) if "model" in step else None
            step = step["step"]
        if healthy is None and step is not None:
            healthy = HealthyState.capture(*self._state(), step)
        self.healthy = healthy
        self.known, self.bundles = state["known"], state["bundles"]
        self.last_good = (place[0], place[1]) if (place := state["last_good"]) else None

    def _state(self) -> tuple[Any, Any, Any]:
        stepper = self.stepper
        return (
            stepper.model.module,
            stepper.optimizer.optimizer,
            stepper.fabric.strategy.precision,
        )

    def _study(self, fault: Fault, inputs: StepInputs, state: StageState) -> None:
        """Names the cause of a new kind of fault and keeps the step for replay."""
        kind, config = kind_of(fault), self.guard.config
        if kind in self.known or len(self.known) >= MOST_STUDIED:
            return
        bundle = self.bundles < config.bundles
        # what a float16 scaler's factor alone makes infinite would hide where the fault comes from
        with self.stepper.least_scale() if fault.nonfinite else nullcontext():
            looks = (config.diagnose or bundle) and self._looks(fault, inputs, state)
            if config.diagnose:
                fault.diagnosis = self._diagnose(fault, inputs, state, looks)
            if bundle:
                fault.bundle = self._write_bundle(fault, inputs, state, looks)
                self.bundles += fault.bundle is not None
        self.known[kind] = {"diagnosis": fault.diagnosis, "bundle": fault.bundle}

    def _looks(self, fault: Fault, inputs: StepInputs, state: StageState) -> bool:
        """Whether this process is to look into the fault, as one at least is.

        What one process makes of its gradients all of them have after the exchange, and all scenes of
        the step are under suspicion: of several processes only those look on which it comes back; where
        it does on none, all that have such scenes.
        """
        own = {name for batch in inputs.batches for name in batch.names}
        concerned, gather = bool(own & set(fault.scenes)), self.stepper.processes.gather
        if sum(gather(concerned)) == 1:
            return concerned
        again = concerned and self._comes_back(fault, inputs, state)
        return again if any(gather(again)) else concerned

    def _comes_back(self, fault: Fault, inputs: StepInputs, state: StageState) -> bool:
        """Whether this process by itself meets the fault again, as far as there is memory to try."""
        try:
            return bool(Experiments(self.stepper, inputs, state, fault).again().fails)
        except MEMORY_ERRORS as error:
            if not is_full(error):
                raise
            return False

    def _diagnose(
        self, fault: Fault, inputs: StepInputs, state: StageState, looks: bool
    ) -> dict[str, Any]:
        """Record of the diagnosis by a process that `looks`; the clearest, where several do."""
        record = None
        if looks:
            reference = self.batches_at(*self.last_good) if self.last_good else None
            found = diagnose(self.stepper, inputs, state, fault, self.healthy, reference)
            record = found.record()
        records = [r for r in self.stepper.processes.gather(record) if r is not None]
        return min(records, key=lambda record: record["verdict"] == "unclear")

    def _write_bundle(
        self, fault: Fault, inputs: StepInputs, state: StageState, looks: bool
    ) -> str | None:
        """File in the run folder, of the first process that `looks` into the fault. Where the disk is
        full the run ends, as at a checkpoint, and going on repeats the step, file and all.

        The file needs the step once more: None, and a warning, where there is no memory for that, or
        the code raises on such numbers. The run goes on, as it does without a diagnosis.
        """
        gather, rank = self.stepper.processes.gather, self.stepper.fabric.global_rank
        path, name = self.folder.bundles / f"step-{inputs.step:08d}.safetensors", None
        if gather(looks).index(True) == rank:
            try:
                write_bundle(path, self.stepper, self.config, inputs, state, [fault])
                name = str(path.relative_to(self.folder.root))
            except InputError:  # the disk's, which a number's ValueError is not
                raise
            except (*MEMORY_ERRORS, *RERUN_ERRORS) as error:
                _logger.warning(
                    "%s: step %d has no replay file (%s); the run goes on",
                    self.folder.root,
                    inputs.step,
                    told_by(error) if is_full(error) else f"{type(error).__name__}: {error}",
                )
        return next((name for name in gather(name) if name is not None), None)


def kind_of(fault: Fault) -> str:
    """Faults of one kind are diagnosed once."""
    return f"{fault.rule} {' '.join(fault.where)}"
