"""What one run of an ablation shows, and what the runs of an arm show at one point of the grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bifusion.runs.run_folder import OVER
from bifusion.storage.json_schema import field_docs
from bifusion.studies.ablation.report import CellFigures, RunsSample
from bifusion.studies.figures.alarms import SPIKE_RULES, UNSTEADY_RULES, alarms_of
from bifusion.studies.figures.metrics import (
    MEAN_GATE,
    final_value,
    log_scatter,
    median_of,
    over_seeds,
    series,
    update_counts,
)
from bifusion.studies.figures.run import Run
from bifusion.studies.grids.runs import RunState, grid_state, load_begun, without_records

FIGURES = field_docs(CellFigures)
"""Figure of a run → what it is."""


@dataclass(frozen=True)
class RunFigures:
    """One run (`ToldRun`); a figure that was not measured is NaN."""

    state: RunState
    reason: str | None
    """Why its guard stopped it."""
    steps: int
    skipped: int
    rollbacks: int
    figures: dict[str, float]
    """By the names of `FIGURES`."""
    run: Run | None = None

    @property
    def ended(self) -> bool:
        """It has a result: trained to its end, or stopped by its guard. One that crashed has none: no
        memory or a full disk says nothing about the recipe."""
        return self.state in OVER

    @property
    def broke(self) -> bool:
        """Its guard stopped it."""
        return self.state == "guard_stopped"


NO_RUN = RunFigures("not started", None, 0, 0, 0, dict.fromkeys(FIGURES, math.nan))


def measure_run(folder: Path, *, crashed: bool = False) -> RunFigures:
    """The figures of the run in `folder` so far; InputError for a damaged folder."""
    run = load_begun(folder)
    state = grid_state(run, crashed)
    if run is None:
        return replace(NO_RUN, state=state)
    counts = update_counts(run)
    alarms = alarms_of(run)
    figures = {
        "raw_nonfinite": float(counts.raw_nonfinite),
        "spikes": float(sum(rule in SPIKE_RULES for rule in alarms)),
        "unsteady": float(sum(rule in UNSTEADY_RULES for rule in alarms)),
        "warnings": float(len(alarms)),
        "gradient_spread": log_scatter(series(run.steps, "grad_norm", "total")),
        "range_in": median_of(series(run.steps, "ranges", "ratio_in")),
        "range_out": median_of(series(run.steps, "ranges", "ratio_out")),
        "gate": final_value(run, "full", MEAN_GATE),
        "miou": final_value(run, "full", "miou"),
        "ap": final_value(run, "full", "ap"),
    }
    rollbacks, bare = int(run.status.get("rollbacks") or 0), without_records(run)
    return RunFigures(state, run.stop_reason, len(run.steps), counts.skipped, rollbacks, figures, bare)


def over_runs(by_seed: dict[int, float]) -> RunsSample:
    """The finite values over the seeds."""
    sample = over_seeds(by_seed)
    finite = list(sample.by_seed.values())
    median = float(np.median(finite)) if finite else math.nan
    return RunsSample(sample.mean, sample.spread, sample.by_seed, median)
