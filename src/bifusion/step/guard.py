"""Keeps faulty steps away from the weights, counts them, and says when to go back or to stop.

A step with a fault is dropped whole: no optimiser step is taken, the statistics that the forward pass
has moved are put back (`checks.Statistics`), and neither the rules nor any average takes its figures
in. Counted is what came raw, before the guard acts. Several faults in a row send the run back to its
last healthy state, with learning rates that ramp up again; too many rollbacks end it: that is a result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bifusion.config.guard import GuardConfig
from bifusion.config.stages import StageState
from bifusion.step.events import Fault, Phase
from bifusion.step.outcome import StepOutcome
from bifusion.step.rules import Rules

SPIKE_PHASES: dict[str, Phase] = {
    "loss_spike": "loss",
    "gradient_spike": "gradient",
    "statistics_spike": "buffers",
}
RAMP_START = 0.1
"""Fraction of the learning rates in the first step after a rollback."""


@dataclass
class GuardCounts:
    """What the guard has met and done in a run."""

    raw_nonfinite: int = 0
    """Steps that met a NaN or an infinity."""
    skipped: int = 0
    """Steps not taken because of any fault."""
    rollbacks: int = 0
    warnings: int = 0
    scaler_overflows: int = 0
    """Low-precision scalers overflow as a matter of course; those steps are no faults."""
    in_a_row: int = 0
    """Faults since the last step that was taken, or the last rollback."""
    ramp_from: int | None = None
    """The step after which the run went back last; None: never."""


class Guard:
    """Counts faults and decides what follows.

    Use a step: `judge` after the backward pass; then `passed`, or `dropped` if the step met a fault, or
    `overflowed`.
    """

    def __init__(self, config: GuardConfig | None = None):
        self.config = config or GuardConfig()
        self.counts = GuardCounts()
        self.rules = Rules(self.config.rules)

    def judge(self, outcome: StepOutcome, state: StageState) -> None:
        """Looks for spikes before the optimiser acts: a warning, or a fault where they are to skip."""
        for alarm in self.rules.judge(outcome, state):
            if self.config.rules.action(alarm.rule) == "warn":
                outcome.alarms.append(alarm)
            elif outcome.event is None:
                phase = SPIKE_PHASES[alarm.rule]
                heights = outcome.heights(alarm.rule, alarm.where)
                outcome.event = Fault(phase, alarm.where, alarm.scenes, rule=alarm.rule, heights=heights)

    def passed(self, outcome: StepOutcome, state: StageState) -> None:
        """The step was faultless and was taken: the rules take its figures in."""
        outcome.alarms += self.rules.accept(outcome, state)
        self.counts.warnings += len(outcome.alarms)
        self.counts.in_a_row = 0

    def dropped(self, outcome: StepOutcome, fault: Fault) -> None:
        """The step met a fault and is not taken; sets the fault's action."""
        counts = self.counts
        counts.warnings += len(outcome.alarms)
        counts.raw_nonfinite += fault.nonfinite
        counts.skipped += 1
        counts.in_a_row += 1
        if counts.in_a_row >= self.config.rollback_after:
            fault.action = "stop" if counts.rollbacks >= self.config.max_rollbacks else "rollback"

    def overflowed(self) -> None:
        """The gradient scaler's factor was too large; it lowers it and the step is not taken."""
        self.counts.scaler_overflows += 1

    def rolled_back(self, step: int) -> None:
        """The run has gone back to its healthy state after step `step`."""
        self.counts.rollbacks += 1
        self.counts.in_a_row = 0
        self.counts.ramp_from = step

    def rate_factor(self, step: int) -> float:
        """Factor on all learning rates at step `step`: below 1 while they ramp up after a rollback."""
        if self.counts.ramp_from is None:
            return 1.0
        passed = step - self.counts.ramp_from - 1
        if passed >= self.config.ramp_steps:
            return 1.0
        return RAMP_START + (1 - RAMP_START) * passed / self.config.ramp_steps

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for a checkpoint."""
        return {"counts": asdict(self.counts), "rules": self.rules.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self.counts = GuardCounts(**state["counts"])
        self.rules.load_state_dict(state["rules"])
