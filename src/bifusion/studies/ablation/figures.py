"""What one run of an ablation shows, and what the runs of an arm show at one point of the grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.studies.figures.metrics import (
    final_value,
    log_scatter,
    median_of,
    series,
    spikes,
    update_counts,
)
from bifusion.studies.figures.run import Record, Run, load_run

SPIKE_RULES = ("loss_spike", "gradient_spike")
UNSTEADY_RULES = (
    "vanishing_gradient", "exploding_gradient", "update_ratio", "gradient_ratio", "feature_range",
    "loss_scale",
)  # fmt: skip
"""Alarms over the numbers of training itself, not over what it learns or is fed."""
FIGURES: dict[str, str] = {
    "raw_nonfinite": "steps with a non-finite value, before any guard acted",
    "spikes": "alarms over a spike of the loss or the gradient norm",
    "unsteady": "alarms over gradients, updates, feature ranges and the loss scale",
    "warnings": "all alarms of the run, whatever they are over",
    "gradient_spread": "scatter of the gradient norm from step to step: standard deviation of its log10",
    "range_in": "range of 2D over 3D features entering the heads, median over steps",
    "range_out": "the same after heads and FiLM",
    "gate": "mean gate over validation points that a view sees, last checkpoint",
    "miou": "validation mIoU of the last checkpoint",
    "ap": "validation AP of the last checkpoint",
}
"""Figure of a run → what it is."""


@dataclass(frozen=True)
class RunFigures:
    """One run; a figure that was not measured is NaN."""

    state: str
    """As in status.json; "crashed" or "not started" where there is no result."""
    reason: str | None
    """Why its guard stopped it."""
    steps: int
    skipped: int
    rollbacks: int
    figures: dict[str, float]
    """By the names of `FIGURES`."""

    @property
    def ended(self) -> bool:
        """It has a result: trained to its end, or stopped by its guard."""
        return self.state in ("completed", "guard_stopped", "crashed")

    @property
    def broke(self) -> bool:
        """It came to no end of its own."""
        return self.state in ("guard_stopped", "crashed")


NO_RUN = RunFigures("not started", None, 0, 0, 0, dict.fromkeys(FIGURES, math.nan))


def measure_run(folder: Path, *, crashed: bool = False) -> tuple[RunFigures, Run | None]:
    """The figures of the run in `folder` so far, and the run without its records; InputError for a
    damaged folder."""
    if not (folder / "config.json").exists():
        state = "crashed" if crashed else "not started"
        return RunFigures(state, None, 0, 0, 0, NO_RUN.figures), None
    run = load_run(folder)
    counts = update_counts(run)
    alarms = _alarms(run)
    evaluated = run.state in ("completed", "guard_stopped") and run.evaluation is not None
    figures = {
        "raw_nonfinite": float(counts.nonfinite),
        "spikes": float(sum(rule in SPIKE_RULES for rule in alarms)),
        "unsteady": float(sum(rule in UNSTEADY_RULES for rule in alarms)),
        "warnings": float(len(alarms)),
        "gradient_spread": log_scatter(series(run.steps, "grad_norm", "total")),
        "range_in": median_of(series(run.steps, "ranges", "ratio_in")),
        "range_out": median_of(series(run.steps, "ranges", "ratio_out")),
        "gate": final_value(run, "full", "fusion_2d_ratio"),
        "miou": final_value(run, "full", "miou"),
        "ap": final_value(run, "full", "ap"),
    }
    state = run.state if evaluated else "crashed" if crashed else "running"
    rollbacks = int(run.status.get("rollbacks") or 0)
    told = RunFigures(state, run.stop_reason, len(run.steps), counts.skipped, rollbacks, figures)
    return told, run


def _alarms(run: Run) -> list[str]:
    """Rule of every alarm, each as often as it was raised.

    Runs of a version that raised none: spikes found in the curves.
    """
    if not any("alarms" in step for step in run.steps):
        curves = {"loss_spike": ("total",), "gradient_spike": ("grad_norm", "total")}
        return [
            rule for rule, keys in curves.items() for _ in range(spikes(series(run.steps, *keys)).sum())
        ]
    return [rule for step in run.steps for rule in _rules_of(step)]


def _rules_of(step: Record) -> list[str]:
    """Rules that fired in a step, whether they warned or kept it from the weights; what is not finite
    is counted apart."""
    event = step.get("event") or {}
    fault = [event["kind"]] if event.get("kind", "nonfinite") != "nonfinite" else []
    return fault + [alarm["rule"] for alarm in step.get("alarms") or []]


def over_runs(by_seed: dict[int, float]) -> dict[str, Any]:
    """Median and spread over seeds of the finite values, as JSON has them."""
    finite = {seed: value for seed, value in by_seed.items() if math.isfinite(value)}
    values = list(finite.values())
    return {
        "median": float(np.median(values)) if values else math.nan,
        "mean": float(np.mean(values)) if values else math.nan,
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        "by_seed": finite,
    }
