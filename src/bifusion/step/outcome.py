"""What goes into an optimiser step, and what it measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from bifusion.step.events import Alarm, Fault
from bifusion.types import Batch, DisagreeingView


@dataclass
class StepInputs:
    """All that a step depends on besides the weights, buffers, optimiser and scaler."""

    step: int
    """Optimiser steps attempted before this one."""
    time: float
    """Epoch and fraction of it: the stages' clock."""
    seed: int
    """Of the run; the step's own generator follows from it and `step`."""
    batches: list[Batch]
    """Their loss is that of one batch of all their scenes."""
    rates: dict[str, float]
    """Learning rate of each parameter group, as set in the optimiser."""


@dataclass
class StepOutcome:
    """What a step measured; a mean over its batches, and over all processes, where there are several."""

    scenes: list[str]
    losses: dict[str, float] = field(default_factory=dict)
    """Unweighted terms."""
    total: float | None = None
    """Weighted; None where a fault was met before it was whole."""
    grad_norm: dict[str, float | None] = field(default_factory=dict)
    """By gradient path, before clipping; 0 where none came, None where the path is frozen."""
    grad_norm_clipped: float | None = None
    fusion: dict[str, Any] = field(default_factory=dict)
    """`observe.record_of` the last batch."""
    event: Fault | None = None
    scaler_overflow: bool = False
    loss_scale: float | None = None
    """Factor of the gradient scaler during the step; None without one."""
    update_ratio: dict[str, float] | None = None
    """By gradient path: ‖Δw‖ / ‖w‖ of this step; None where not measured."""
    conflicts: dict[str, float] | None = None
    """"semantic|mask_bce" -> cosine of the two weighted terms' gradients at the last shared weights;
    None where not measured."""
    statistics: dict[str, float] = field(default_factory=dict)
    """BatchNorm module -> factor by which the step multiplied its mean running variance; those above 2,
    in the order of the model."""
    disagreeing_views: list[DisagreeingView] = field(default_factory=list)
    """Views whose colour and depth do not fit the scene's geometry."""
    alarms: list[Alarm] = field(default_factory=list)
    """Warnings of this step."""

    def heights(self, rule: str, where: list[str]) -> dict[str, float]:
        """The figures in which a spike of `rule` at `where` stands out, by place; infinite where there
        is none, as of a gradient that did not come to be."""
        if rule == "loss_spike":
            return {"loss.total": _or_infinite(self.total)}
        if rule == "statistics_spike":
            return {place: self.statistics.get(place.removeprefix("buffers."), 1.0) for place in where}
        norms = {place: self.grad_norm.get(place.removeprefix("gradient.")) for place in where}
        return {place: _or_infinite(norm) for place, norm in norms.items()}


def _or_infinite(figure: float | None) -> float:
    return math.inf if figure is None else figure
