"""The content of sweep.json, typed; its schema is made from these classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bifusion.storage.json_schema import Count
from bifusion.studies.figures.metrics import Sample
from bifusion.studies.grids.report import GridReport, NotRun
from bifusion.studies.grids.runs import RunState
from bifusion.studies.sweep.breaking import Break
from bifusion.studies.sweep.plan import Condition, SweepArm
from bifusion.studies.sweep.sensitivity import GoodRates

Verdict = Literal[
    "learns", "too slow", "non-finite", "gate dead", "gate saturated", "loss stuck", "one class"
]


@dataclass(frozen=True)
class RunOutcome:
    """How one run went."""

    seed: int
    """Its seed."""
    folder: str
    """Name of its folder."""
    state: RunState
    """As in status.json; "crashed" or "not started" where there is no result."""
    verdict: Verdict | None
    """The first of its breaks; "too slow" where its rate is below the arm's best one and it learnt too
    little; null before it has ended."""
    breaks: list[Break]
    """Every way in which it broke, by step."""
    steps: Count
    """Steps attempted."""
    alarms: dict[str, Count]
    """Rule → alarms raised."""


@dataclass(frozen=True)
class RateFigures:
    """Each figure over the seeds."""

    final_loss: Sample
    """training loss at the end, no more than before training; that where the run was stopped"""
    miou: Sample
    """validation mIoU of the last checkpoint; 0 where the run was stopped"""
    ap: Sample
    """validation AP of the last checkpoint; 0 where the run was stopped"""
    gate: Sample
    """mean gate over validation points that a view sees, last checkpoint"""
    raw_nonfinite: Sample
    """steps with a non-finite value; without a guard the first one ends the run"""
    alarms: Sample
    """alarms that the run's rules raised"""


@dataclass(frozen=True)
class Rate:
    """The runs of one arm under one condition at one rate."""

    factor: float
    """On the arm's own rate."""
    figures: RateFigures
    """Each figure over the seeds."""
    runs: list[RunOutcome]
    """One a seed."""


@dataclass(frozen=True)
class Breaking:
    """Where an arm breaks as its rate rises."""

    factor: float
    """The lowest factor at which most seeds broke, other than by learning too slowly."""
    kinds: dict[str, Count]
    """What came first there → in how many seeds."""
    steps: list[Count]
    """From which step on, seed by seed."""
    where: str
    """Paths and module, gate, loss or class, of the seed that broke first."""


@dataclass(frozen=True)
class Curve:
    """One arm under one condition over all rates."""

    arm: str
    """Key of the arm."""
    condition: str
    """Key of the condition."""
    initial_loss: Sample
    """Loss of the first step, before any update."""
    sensitivity: Sample
    """Learning-rate sensitivity of Wortsman et al. (2309.14322): mean over rates of min(final, initial
    loss) − the best final loss. Seeds of which every rate has ended."""
    relative_sensitivity: Sample
    """The same as a share of what the best rate gains, 0 to 1: comparable between arms whose losses
    differ."""
    miou_shortfall: Sample
    """Mean over rates of 1 − mIoU / best mIoU."""
    good: GoodRates
    """The rates within 10 % of the best mean mIoU."""
    breaking: Breaking | None
    """Null where it does not break in the rates that have ended."""
    rates: list[Rate]
    """By factor, ascending."""


@dataclass(frozen=True)
class SweepNotRun(NotRun):
    """What the figures do not hold."""

    factors: list[float]
    """Of the default rates."""
    conditions: list[str]
    """Labels of the default conditions that were left out."""


@dataclass(frozen=True, kw_only=True)
class SweepReport(GridReport):
    """Content of sweep.json: arms trained at learning rates that span decades, and where each of them
    breaks. mIoU and AP are fractions in [0, 1]. Numbers that were not measured are null."""

    factors: list[float]
    """On every arm's own rate, ascending."""
    conditions: list[Condition]
    """Those that were planned."""
    arms: list[SweepArm]
    """In the order of tables."""
    not_run: SweepNotRun
    """What the figures do not hold."""
    definitions: list[str]
    """How breaking, sensitivity and good rates are found."""
    findings: list[str]
    """What came out, in sentences made of the figures."""
    curves: list[Curve]
    """Every arm under every condition that concerns it."""
