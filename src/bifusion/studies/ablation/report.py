"""The content of ablation.json, typed; its schema is made from these classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bifusion.storage.json_schema import Count
from bifusion.studies.ablation.plan import AblationArm, GridPoint
from bifusion.studies.figures.metrics import Sample
from bifusion.studies.grids.report import GridReport, NotRun
from bifusion.studies.grids.runs import RunState

Aspect = Literal["stability", "accuracy"]
Outcome = Literal["matters", "harms", "does not show", "too few pairs", "refused"]


@dataclass(frozen=True)
class RunsSample(Sample):
    """A figure over the runs of one arm at one point, by seed."""

    median: float
    """Median over seeds."""


@dataclass(frozen=True)
class CellFigures:
    """Each figure over the seeds."""

    raw_nonfinite: RunsSample
    """steps with a non-finite value, before any guard acted"""
    spikes: RunsSample
    """alarms over a spike of the loss or the gradient norm"""
    unsteady: RunsSample
    """alarms over gradients, updates, feature ranges and the loss scale"""
    warnings: RunsSample
    """all alarms of the run, whatever they are over"""
    gradient_spread: RunsSample
    """scatter of the gradient norm from step to step: standard deviation of its log10"""
    range_in: RunsSample
    """range of 2D over 3D features entering the heads, median over steps"""
    range_out: RunsSample
    """the same after heads and FiLM"""
    gate: RunsSample
    """mean gate over validation points that a view sees, last checkpoint"""
    miou: RunsSample
    """validation mIoU of the last checkpoint"""
    ap: RunsSample
    """validation AP of the last checkpoint"""


@dataclass(frozen=True)
class Cell:
    """The runs of one arm at one point."""

    arm: str
    """Key of the arm."""
    point: str
    """Key of the point."""
    shared: bool
    """The same runs stand at other ranges too."""
    states: dict[int, RunState]
    """Seed → how its run stands."""
    reasons: dict[int, str]
    """Seed → why its guard stopped it."""
    steps: Count
    """Optimiser steps attempted, all seeds."""
    skipped: Count
    """Steps not taken."""
    rollbacks: Count
    """Returns to the last healthy state."""
    figures: CellFigures
    """Each figure over the seeds."""
    difference: RunsSample
    """Accuracy minus that of the staged recipe at the same point, by seed; empty for the staged one."""


@dataclass(frozen=True)
class Finding:
    """What the pairs say on one aspect of one measure."""

    aspect: Aspect
    """What is judged."""
    outcome: Outcome
    """By the rule; refused where accuracies are not compared. Of a rival: whether the staged recipe is
    better (matters) or worse (harms)."""
    better: Count
    """Pairs that are better with the measure (of a rival: with the staged recipe)."""
    worse: Count
    """Pairs that are worse with it."""
    ties: Count
    """Pairs that say nothing."""
    p: float
    """Two-sided sign test; null without a pair that says anything."""
    points: list[str]
    """Points at which every seed is better with the measure."""
    pairs: Count
    """All pairs that have come to a result."""


@dataclass(frozen=True)
class ArmFinding:
    """What the rule says of one arm."""

    arm: str
    """Key of the arm."""
    headline: str
    """What came out."""
    sentence: str
    """The figures behind it."""
    stability: Finding
    """Stability."""
    accuracy: Finding
    """Accuracy."""
    difference: RunsSample
    """Accuracy of the arm minus that of the staged recipe by seed, mean over the grid."""


@dataclass(frozen=True)
class AblationNotRun(NotRun):
    """What the figures do not hold."""

    points: list[str]
    """Labels of points of the default grid that were left out."""


@dataclass(frozen=True, kw_only=True)
class AblationReport(GridReport):
    """Content of ablation.json: staged BiFusion with each stabilising measure removed in turn, and its
    rivals, over a grid of settings that is the same for all. Accuracy is mIoU (AP for models without a
    semantic head), a fraction in [0, 1]. Numbers that were not measured are null."""

    points: list[GridPoint]
    """Points of the grid that were planned."""
    arms: list[AblationArm]
    """In the order of tables, the staged recipe first."""
    not_run: AblationNotRun
    """What the figures do not hold."""
    rule: list[str]
    """The rule that findings follow, fixed before the runs."""
    findings: list[ArmFinding]
    """One for every arm but the staged recipe."""
    cells: list[Cell]
    """Every arm at every point."""
