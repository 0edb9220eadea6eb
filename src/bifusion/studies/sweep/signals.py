"""What the records of one run say about how its training went, step by step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bifusion.studies.figures.alarms import alarms_of
from bifusion.studies.figures.gate import learned_alpha
from bifusion.studies.figures.metrics import MEAN_GATE, final_value, update_counts
from bifusion.studies.figures.run import Record, Run


@dataclass(frozen=True)
class Signals:
    """The signals of n steps, and what a run's events, alarms and validations tell beside them."""

    loss: np.ndarray
    """(n,) float64: loss terms with fixed weights; NaN where one is not finite."""
    alpha: np.ndarray
    """(n,) `learned_alpha`."""
    fault: tuple[int, str] | None = None
    """First step that met a NaN or an infinity, and where: paths, then the module."""
    one_class: tuple[tuple[int, str | None], ...] = ()
    """Of each validation the steps taken before it, and the only class that it finds anything of; None
    where it finds more."""
    stopped: bool = False
    """The run came to no end of its own: without a guard its first fault ends it, with one too many."""
    alarms: dict[str, int] = field(default_factory=dict)
    """Rule → alarms raised."""
    raw_nonfinite: int = 0
    miou: float = math.nan
    ap: float = math.nan
    gate: float = math.nan
    """Mean gate over validation points that a view sees, last checkpoint."""


def signals_of(run: Run, weights: Mapping[str, float]) -> Signals:
    """The signals of `run`, its loss by `weights`."""
    return Signals(
        loss=np.array([weighted_loss(step, weights) for step in run.steps], dtype=np.float64),
        alpha=learned_alpha(run.steps),
        fault=_first_fault(run.steps),
        one_class=_validations(run),
        stopped=run.state == "guard_stopped",
        alarms=dict(sorted(Counter(alarms_of(run)).items())),
        raw_nonfinite=update_counts(run).raw_nonfinite,
        miou=final_value(run, "full", "miou"),
        ap=final_value(run, "full", "ap"),
        gate=final_value(run, "full", MEAN_GATE),
    )


def weighted_loss(step: Record, weights: Mapping[str, float]) -> float:
    """Σ weight · term of a step's record; a term that the step did not have counts 0, one that was not
    finite makes the sum NaN, and so does a step that met a fault before its loss."""
    losses = step["losses"]
    if not losses:
        return math.nan
    terms = [(weight, losses.get(term, 0.0)) for term, weight in weights.items()]
    return math.nan if any(v is None for _, v in terms) else float(sum(w * v for w, v in terms))


def _first_fault(steps: list[Record]) -> tuple[int, str] | None:
    for step in steps:
        event = step.get("event") or {}
        if event.get("kind") == "nonfinite":
            return step["step"], _where(event)
    return None


def _where(event: Mapping[str, Any]) -> str:
    """ "gradient.backbone: unet.level1.conv (2D)": what the step met, and what its diagnosis named."""
    found = event.get("diagnosis") or {}
    module = found.get("module") or found.get("loss_term")
    path = ", ".join(event.get("where") or []) or str(event.get("phase"))
    return f"{path}: {module}" if module else path


def _validations(run: Run) -> tuple[tuple[int, str | None], ...]:
    """Validations in order, by the steps of their epoch."""
    last = {step["epoch"]: step["step"] + 1 for step in run.steps}
    told = []
    for record in run.epoch_records:
        iou = (record.get("val") or {}).get("iou")
        if iou and record["epoch"] in last:
            told.append((last[record["epoch"]], _only_class(iou)))
    return tuple(told)


def _only_class(iou: Mapping[str, float | None]) -> str | None:
    """The only class with an IoU above 0, "none" where there is not even one; None where there are
    several."""
    found = [name for name, value in iou.items() if value]
    return None if len(found) > 1 else (found[0] if found else "none")
