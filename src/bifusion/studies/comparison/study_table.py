"""The study's comparison in five dimensions (S1), every cell measured on the runs compared.

A cell is a list of (what, figure) pairs; the risk column holds what the study fears and what was
measured of it. Figures of several seeds are medians over the steps of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from bifusion.errors import listing
from bifusion.models.parts import BY_NAME, is_of_tower
from bifusion.studies.comparison.report import Cell, Dimension
from bifusion.studies.comparison.rivals import rival_of
from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.metrics import (
    MEAN_GATE,
    SPIKE_HISTORY,
    final_value,
    largest_of,
    log_scatter,
    median_of,
    series,
    spikes,
    value_at,
)
from bifusion.studies.figures.model_parts import feature_dims, part_counts
from bifusion.studies.figures.run import Record, Run
from bifusion.studies.figures.text import (
    NONE,
    mean_spread,
    millions,
    number,
    significant,
)
from bifusion.wording import plural

FEATURES = {
    "f2d_in": "2D from the image tower",
    "f3d_in": "3D from the U-Net",
    "f2d": "2D after head and FiLM",
    "f3d": "3D after head and FiLM",
}
TOWER_PATHS = {"conv1": "conv1", "tower": "the rest"}
"""Gradient paths of the image tower → what the table calls them."""


def study_table(arms: list[Arm]) -> list[Dimension]:
    """Five rows, one a dimension."""
    rows: list[tuple[str, str, Callable[[Arm], Cell], Callable[[Arm], str]]] = [
        ("Feature space", "Dimensions and ranges do not match", _feature_space, _range_risk),
        ("Gradient flow", "Gradient explosion", _gradient_flow, _explosion_risk),
        (
            "Parameters",
            "Harder optimisation",
            _parameters,
            lambda arm: _optimisation_risk(arm, rival_of(arm, "baseline", arms)),
        ),
        ("CLIP", "Numerical instability", _clip, _tower_risk),
        ("Fusion", "One more source of instability", _fusion, _fusion_risk),
    ]
    return [
        Dimension(
            dimension,
            {arm.key: cell(arm) for arm in arms},
            risk,
            [(arm.label, text) for arm in arms if (text := measured(arm))],
        )
        for dimension, risk, cell, measured in rows
    ]


def _steps(arm: Arm) -> list[Record]:
    return [step for run in arm.runs for step in run.steps]


# -------------------------------------------------------------------------------- feature space


def _feature_space(arm: Arm) -> Cell:
    steps = _steps(arm)
    dims = feature_dims(arm.first)
    cell: Cell = []
    for feature, name in FEATURES.items():
        rms = series(steps, "ranges", feature, "rms")
        size = f"{dims[feature]} channels" if dims.get(feature) else ""
        if np.isfinite(rms).any():
            largest = largest_of(series(steps, "ranges", feature, "max"))
            text = f"RMS {significant(median_of(rms))}, max {significant(largest)}"
            cell.append((name, f"{size}, {text}" if size else text))
        elif size:
            cell.append((name, size))
    spaces = 2 if any("2D" in name for name, _ in cell) else 1
    sizes = "two, dense 2D and sparse 3D" if spaces == 2 else "one, sparse 3D"
    return [("spaces", sizes), *cell]


def _range_risk(arm: Arm) -> str:
    before, after = (series(_steps(arm), "ranges", key) for key in ("ratio_in", "ratio_out"))
    if not np.isfinite(before).any():
        return ""
    return f"2D/3D RMS {_span(before)} entering the heads, {_span(after)} after"


def _span(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return NONE
    low, middle, high = (significant(float(f(finite))) for f in (np.min, np.median, np.max))
    return f"{middle} ({low} to {high})"


# -------------------------------------------------------------------------------- gradient flow


def _gradient_flow(arm: Arm) -> Cell:
    steps = _steps(arm)
    cell: Cell = []
    for path in BY_NAME:
        norms = series(steps, "grad_norm", path)
        moving = norms[norms > 0]
        if len(moving):
            text = f"norm {significant(median_of(moving))}, max {significant(largest_of(moving))}"
            cell.append((path.replace("_", " "), text))
    two = any(path == "head 2d" for path, _ in cell)
    cell.insert(0, ("paths to the loss", "two, 2D and 3D → fusion" if two else "one, 3D"))
    scatter = arm.over_seeds(lambda run: log_scatter(series(run.steps, "grad_norm", "total")))
    of_2d, of_3d = (series(steps, "grad_norm", path) for path in ("head_2d", "backbone"))
    two_d = np.divide(of_2d, of_3d, out=np.full_like(of_2d, np.nan), where=of_3d > 0)
    ratio = median_of(two_d[two_d > 0])
    if math.isfinite(ratio):
        cell.append(("2D head / 3D backbone", significant(ratio)))
    if math.isfinite(scatter.mean):
        cell.append(("spread from step to step", f"×/÷ {10**scatter.mean:.2f}"))
    return cell


def _spikes_told(arm: Arm, path: str, of: str) -> str:
    """Spikes of a path's norm over the runs of an arm, and its largest values: those that come too early
    to be called spikes apart, which are often the largest. A norm of 0 is a path that is frozen."""
    curves = [series(run.steps, "grad_norm", path) for run in arm.runs]
    moving = [curve[curve > 0] for curve in curves]
    usual = median_of(np.concatenate(moving))
    early, highest = (
        significant(largest_of(np.concatenate(values)) / usual)
        for values in ([curve[:SPIKE_HISTORY] for curve in moving], moving)
    )
    found = plural(sum(int(spikes(curve).sum()) for curve in moving), "spike")
    return (
        f"{found} of {of} after its first {SPIKE_HISTORY} steps (there at most {early} × median), "
        f"largest {highest} × median"
    )


def _explosion_risk(arm: Arm) -> str:
    steps = _steps(arm)
    if not np.isfinite(series(steps, "grad_norm", "total")).any():
        return ""
    bad = sum(_nonfinite(step).get("phase") == "gradient" for step in steps)
    return f"{_spikes_told(arm, 'total', 'the norm')}, {bad} non-finite"


def _nonfinite(step: Record) -> Record:
    """The event of a step that met a number that is not finite; nothing of another, as a spike."""
    event = step.get("event") or {}
    return event if event.get("kind") == "nonfinite" else {}


# ----------------------------------------------------------------------------------- parameters


def _parameters(arm: Arm) -> Cell:
    parts = part_counts(arm.first)
    total = arm.first.parameters.get("total", sum(parts.values()))
    own = [("3D network from outside", arm.first.own_network)] if arm.first.own_network else []
    counts = ((part, millions(count)) for part, count in parts.items())
    return [("total", millions(total)), *counts, *own]


def _optimisation_risk(arm: Arm, baseline: Arm | None) -> str:
    reached = [epochs for run in arm.runs if (epochs := _epochs_to_reach(run)) is not None]
    texts = []
    if baseline is not None and arm is not baseline and baseline.first.parameters.get("total"):
        times = arm.first.parameters.get("total", 0) / baseline.first.parameters["total"]
        texts.append(f"{times:.1f} × the baseline's parameters")
        pace = median_of(series(_steps(arm), "seconds")) / median_of(series(_steps(baseline), "seconds"))
        if math.isfinite(pace):
            texts.append(f"{pace:.1f} × its time a step")
    if reached:
        early, late = (number(float(np.mean(ends)), 0) for ends in zip(*reached, strict=True))
        texts.append(f"90 % of its last mIoU between epochs {early} and {late}")
    return ", ".join(texts)


def _epochs_to_reach(run: Run) -> tuple[int, int] | None:
    """Epochs done at the last validation before mIoU first was 90 % of its last, and at that one: none
    was made in between."""
    curve = [(r["epoch"] + 1, value_at(r, "val", "miou")) for r in run.epoch_records]
    curve = [(0, -math.inf), *((epochs, miou) for epochs, miou in curve if math.isfinite(miou))]
    enough = 0.9 * curve[-1][1]
    return next(
        ((before, epochs) for (before, _), (epochs, miou) in pairwise(curve) if miou >= enough), None
    )


# ----------------------------------------------------------------------------------------- CLIP


def _clip(arm: Arm) -> Cell:
    run = arm.first
    if "image tower" not in part_counts(run):
        return [("tower", "none")]
    cell: Cell = [("weights from", run.tower or "not said")]
    for stage in run.stages:
        cell.append(
            (f"trained in {stage.name}", _trained_tower_groups(run, stage.first_epoch, stage.end_epoch))
        )
    conv1 = series(_steps(arm), "grad_norm", "conv1")
    moving = conv1[conv1 > 0]
    text = (
        f"median {significant(median_of(moving))}, max {significant(largest_of(moving))}"
        if len(moving)
        else "none"
    )
    moves = [(f"a step moves {what} by", _moves(arm, path)) for path, what in TOWER_PATHS.items()]
    return [*cell, ("conv1's gradient", text), *((what, told) for what, told in moves if told)]


def _moves(arm: Arm, path: str) -> str:
    """‖Δw‖ / ‖w‖ of a path in the steps that measured it and trained it; empty where none did."""
    ratios = series(_steps(arm), "update_ratio", path)
    moving = ratios[ratios > 0]
    if not len(moving):
        return ""
    return f"median {significant(median_of(moving))}, max {significant(largest_of(moving))} of its norm"


def _trained_tower_groups(run: Run, first_epoch: int, end_epoch: int) -> str:
    rates: dict[str, float] = {}
    steps = [step for step in run.steps if first_epoch <= step["epoch"] < end_epoch]
    for step in steps:
        for group, rate in (step.get("lr") or {}).items():
            if is_of_tower(group):
                rates[group] = max(rates.get(group, 0.0), rate or 0.0)
    moving = [group.removeprefix("tower.") for group, rate in rates.items() if rate > 0]
    if not steps:
        return "not reached"
    if moving and not run.views_used:
        return "nothing, as no view is read"
    return listing(moving) if moving else "nothing, frozen"


def _tower_risk(arm: Arm) -> str:
    conv1 = series(_steps(arm), "grad_norm", "conv1")
    return _spikes_told(arm, "conv1", "conv1's gradient") if np.any(conv1 > 0) else ""


# --------------------------------------------------------------------------------------- fusion


def _fusion(arm: Arm) -> Cell:
    run = arm.first
    if run.tower is None or not run.views_used:
        return [("type", "none: 3D features alone")]
    gate = f"gate from outside, {run.own_gate}" if run.own_gate else "learned gate"
    kind = {"gate": f"FiLM and {gate}", "simple": "fixed half"}.get(
        run.fusion_type or "", run.fusion_type
    )
    if run.fixed_alpha is not None:
        kind = f"FiLM, α fixed at {run.fixed_alpha:g} on seen points"
    cell: Cell = [("type", kind or "none")]
    gates = [gate for r in arm.runs if (gate := _last_gate(r))]
    if gates:
        mean, spread, scale = (
            float(np.mean([value_at(g, key) for g in gates]))
            for key in ("alpha_mean", "alpha_std", "scale")
        )
        cell.append(("α over seen points, last step", f"{number(mean)} ± {number(spread)}"))
        cell.append(("s, last step", number(scale, 2)))
    ratio = arm.over_seeds(lambda r: final_value(r, "full", MEAN_GATE))
    share = arm.over_seeds(lambda r: final_value(r, "full", "share_2d"))
    if ratio.by_seed:
        cell.append(("mean gate in validation", mean_spread(ratio)))
        cell.append(("2D's real share", mean_spread(share)))
    return cell


def _last_gate(run: Run) -> Record | None:
    return next((step["gate"] for step in reversed(run.steps) if step.get("gate")), None)


def _fusion_risk(arm: Arm) -> str:
    norms = series(_steps(arm), "grad_norm", "fusion")
    if not np.any(norms[np.isfinite(norms)] > 0):
        return ""
    bad = sum(_touches_fusion(step) for step in _steps(arm))
    told = _spikes_told(arm, "fusion", "the fusion's gradient")
    return f"{told}, {plural(bad, 'non-finite step')} named it"


def _touches_fusion(step: Record) -> bool:
    where = _nonfinite(step).get("where") or []
    return any(word in place for place in where for word in ("fusion", "gate", "film", "f2d"))
