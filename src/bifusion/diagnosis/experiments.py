"""The same step under other conditions: which of them make its fault go away."""

from __future__ import annotations

from dataclasses import dataclass

from bifusion.config.stages import StageState
from bifusion.data.batching import select_scenes, split_scenes
from bifusion.device_memory import is_full
from bifusion.diagnosis.calls import Origin
from bifusion.diagnosis.rerun import RERUN_ERRORS, Rerun, healthy_weights, run_again, with_batches
from bifusion.diagnosis.tracing import Tracer
from bifusion.runs.healthy import HealthyState
from bifusion.step.events import Fault
from bifusion.step.outcome import StepInputs, StepOutcome
from bifusion.step.step import Stepper
from bifusion.types import Batch

SPIKE_SHARE = 0.5
"""A run that reaches this part of one of the spike's figures counts as one that has the spike too. A
step's figure is a mean over its scenes: of one scene alone, a guilty one's is larger than the step's."""


@dataclass
class Attempt:
    """A step that ran again, under whatever conditions."""

    fails: bool | None
    """It met the fault, or another one of its kind; None: the code raised, and that tells neither."""
    place: str | None = None
    """Module, or where else the fault showed; None where it did not fail."""
    origin: Origin | None = None
    rerun: Rerun | None = None
    error: str | None = None
    """What the code raised; then nothing else is known."""


@dataclass
class Alone:
    """What the scenes of a step do, each by itself."""

    guilty: list[str]
    """Those that fail, at the fault's place if any does there."""
    untold: list[str]
    """Those of which nothing is known, as the code raised on them."""


class Experiments:
    """Runs the step of `fault` again."""

    def __init__(self, stepper: Stepper, inputs: StepInputs, state: StageState, fault: Fault):
        self.stepper, self.inputs, self.state, self.fault = stepper, inputs, state, fault
        self._heights = dict(fault.heights)
        """Of the spike; {} for faults that are not finite."""

    def again(self, tracer: Tracer | None = None) -> Attempt:
        """The step as it was."""
        return self._attempt(self.inputs.batches, tracer)

    def in_float32(self) -> Attempt:
        """Without autocast."""
        return self._attempt(self.inputs.batches, float32=True)

    def on(self, batches: list[Batch], healthy: HealthyState | None = None) -> Attempt:
        """On other batches, with the weights as they are or those of `healthy`."""
        if healthy is None:
            return self._attempt(batches)
        with healthy_weights(self.stepper, healthy):
            return self._attempt(batches)

    def trace_healthy(
        self, tracer: Tracer, batches: list[Batch] | None, healthy: HealthyState | None
    ) -> None:
        """Traces a sound step: healthy weights, where there are any, on batches that went well, or,
        where there are none, on those of the step."""
        batches = self.inputs.batches if batches is None else batches
        if healthy is None:
            self._attempt(batches, tracer)
            return
        with healthy_weights(self.stepper, healthy):
            self._attempt(batches, tracer)

    def alone(self, place: str | None, healthy: HealthyState | None = None) -> Alone:
        """Each scene by itself. Those that fail elsewhere than at `place` only fail for being alone.

        With the weights as they are, the step without the guilty ones is tried too: if it still fails
        as before, all its scenes are guilty.
        """
        attempts = {
            batch.names[0]: self.on([batch], healthy)
            for whole in self.inputs.batches
            for batch in split_scenes(whole)
        }
        untold = [name for name, attempt in attempts.items() if attempt.fails is None]
        failed = [name for name, attempt in attempts.items() if attempt.fails]
        same = [name for name in failed if attempts[name].place == place]
        guilty = same or failed
        if not guilty or len(guilty) == len(attempts) or healthy is not None:
            return Alone(guilty, untold)
        rest = self.on(without_scenes(self.inputs.batches, guilty))
        if rest.fails and rest.place == place:
            return Alone(list(attempts), [])
        return Alone(guilty, untold)

    def _attempt(
        self, batches: list[Batch], tracer: Tracer | None = None, *, float32: bool = False
    ) -> Attempt:
        tracer = tracer or Tracer(self.stepper.model.module, ranges=False)
        inputs = with_batches(self.inputs, batches)
        try:
            rerun = run_again(self.stepper, inputs, self.state, tracer=tracer, float32=float32)
        except RERUN_ERRORS as error:
            if is_full(error):  # that says nothing of the fault
                raise
            return Attempt(fails=None, error=f"{type(error).__name__}: {error}")
        outcome = rerun.outcome
        if outcome.event is None and not outcome.scaler_overflow:
            spikes = self._has_spike(outcome)
            return Attempt(spikes, self.fault.rule if spikes else None, rerun=rerun)
        place = tracer.origin.module if tracer.origin is not None else None
        if place is None and outcome.event is not None:
            place = next(iter(rerun.bad_buffers), outcome.event.where[0])
        return Attempt(True, place, tracer.origin, rerun)

    def _has_spike(self, outcome: StepOutcome) -> bool:
        """Whether a figure that made the spike is as high again."""
        if self.fault.nonfinite:
            return False
        found = outcome.heights(self.fault.rule, self.fault.where)
        if not self._heights:  # a bundle of a former version: the step as it was is run first
            self._heights = found
        return any(found[place] >= SPIKE_SHARE * high for place, high in self._heights.items())


def without_scenes(batches: list[Batch], scenes: list[str]) -> list[Batch]:
    """The batches' other scenes; a batch that has none is left out."""
    kept = [[b for b, name in enumerate(batch.names) if name not in scenes] for batch in batches]
    return [
        select_scenes(batch, indices) for batch, indices in zip(batches, kept, strict=True) if indices
    ]
