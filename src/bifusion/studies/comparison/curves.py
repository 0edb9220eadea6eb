"""The curves of the report as plotly traces (plain dictionaries), thinned so that spikes survive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bifusion.losses.terms import may_be_negative
from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.metrics import (
    epoch_axis,
    nonfinite_steps,
    running_median,
    series,
)
from bifusion.studies.figures.run import Run
from bifusion.studies.page.charts import Trace, plain
from bifusion.studies.page.style import Look

BUCKETS = 350
"""Buckets of a long curve; each keeps its smallest and its largest value."""
SMOOTH_POINTS = 160
"""Points of a running median."""
MARKERS = 250
"""At most so many places of non-finite steps are marked per arm."""
HOLE = 10
"""So many steps in a row without a value are drawn over; more are a stretch in which there is none."""
Curve = tuple[np.ndarray, np.ndarray]
Draw = Callable[[Arm, Look], list[Trace]]
"""(arm, its look) → its traces."""


def downsample(x: np.ndarray, y: np.ndarray, buckets: int = BUCKETS) -> Curve:
    """At most about 3 · buckets points of (x, y): the extremes of each bucket, gaps, and both ends.

    Averages or every n-th point would lose the single step that matters. A bucket with non-finite
    values keeps the first of them, so that the gap stays visible.
    """
    if len(y) <= 2 * buckets:
        return x, y
    kept = {0, len(y) - 1}
    edges = np.linspace(0, len(y), buckets + 1).astype(int)
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        part = y[start:end]
        finite = np.isfinite(part)
        if not finite.all():
            kept.add(int(start + np.argmin(finite)))
        if finite.any():
            kept.add(int(start + np.argmin(np.where(finite, part, np.inf))))
            kept.add(int(start + np.argmax(np.where(finite, part, -np.inf))))
    index = np.array(sorted(kept))
    return x[index], y[index]


def without_holes(x: np.ndarray, y: np.ndarray, broken: np.ndarray) -> Curve:
    """(x, y) less single steps that have no value, as those in which no scene has a view.

    Gaps at each of them would make a solid line look dashed, which is another arm's. Steps that are
    `broken` (n,) stay gaps, and so do long stretches: a loss that is off, a path that is frozen.
    """
    absent = ~np.isfinite(y) & ~broken
    borders = np.flatnonzero(np.diff(np.concatenate([[False], absent, [False]]).astype(int)))
    dropped = np.zeros(len(y), dtype=bool)
    for start, end in zip(borders[::2], borders[1::2], strict=True):
        dropped[start:end] = end - start <= HOLE
    return x[~dropped], y[~dropped]


def smooth(x: np.ndarray, y: np.ndarray) -> Curve:
    """The running median of a curve at about `SMOOTH_POINTS` places, drawn only where the curve is."""
    window = max(3, len(y) // 30) | 1
    stride = max(1, len(y) // SMOOTH_POINTS)
    median = running_median(y, window, stride)
    return x[::stride], np.where(np.isfinite(y[::stride]), median, np.nan)


def step_draw(keys: list[str], *, raw: bool = True, dash: str | None = None) -> Draw:
    """A figure of every step: the steps faintly, their running median on top."""

    def draw(arm: Arm, look: Look) -> list[Trace]:
        traces = []
        for run in arm.runs:
            y = _measured(series(run.steps, *keys), keys)
            x, y = without_holes(epoch_axis(run), y, nonfinite_steps(run))
            if not np.isfinite(y).any():
                continue
            if raw:
                line = {"color": look.color, "width": 1}
                traces.append(
                    _trace(arm, run, downsample(x, y), line=line, opacity=0.35, hoverinfo="skip")
                )
            line = {"color": look.color, "width": 2, "dash": dash or look.dash}
            traces.append(_trace(arm, run, smooth(x, y), line=line))
        return traces

    return draw


def _measured(y: np.ndarray, keys: list[str]) -> np.ndarray:
    """`y` without the 0 of a loss that is off and of a path that is frozen. Below 0 a gradient norm and
    most losses cannot be, and their scale is logarithmic."""
    if keys[0] not in ("grad_norm", "losses"):
        return y
    signed = keys[0] == "losses" and may_be_negative(keys[1])
    return np.where(y != 0 if signed else y > 0, y, np.nan)


def pair_draw(solid: str, dotted: str) -> Draw:
    """RMS of two features in one chart."""
    draws = [
        step_draw(["ranges", solid, "rms"], dash="solid"),
        step_draw(["ranges", dotted, "rms"], dash="dot"),
    ]
    return lambda arm, look: [trace for draw in draws for trace in draw(arm, look)]


def gate_draw(arm: Arm, look: Look) -> list[Trace]:
    """Mean of the gate with a band of ± one standard deviation over the seen points."""
    traces = []
    for run in arm.runs:
        x, mean = epoch_axis(run), series(run.steps, "gate", "alpha_mean")
        keep = np.isfinite(mean)
        if not keep.any():
            continue
        x, mean = x[keep], mean[keep]
        spread = np.nan_to_num(series(run.steps, "gate", "alpha_std")[keep])
        (low_x, low), (_, high) = smooth(x, mean - spread), smooth(x, mean + spread)
        band = (np.concatenate([low_x, low_x[::-1]]), np.concatenate([low, high[::-1]]))
        fill = {"fill": "toself", "fillcolor": look.color, "opacity": 0.15, "line": {"width": 0}}
        traces.append(_trace(arm, run, band, hoverinfo="skip", **fill))
        line = {"color": look.color, "width": 2, "dash": look.dash}
        traces.append(_trace(arm, run, downsample(x, mean), line=line))
    return traces


def validation_draw(key: str) -> Draw:
    """A figure of each validation, at the end of its epoch."""

    def draw(arm: Arm, look: Look) -> list[Trace]:
        traces = []
        for run in arm.runs:
            records = [record for record in run.epoch_records if record.get("val")]
            x = np.array([record["epoch"] + 1.0 for record in records])
            y = series(records, "val", key)
            if np.isfinite(y).any():
                line = {"color": look.color, "width": 2, "dash": look.dash}
                marker = {"color": look.color, "size": 5 if len(x) <= 30 else 3}
                style = {"line": line, "marker": marker, "cliponaxis": False}
                traces.append(_trace(arm, run, (x, y), mode="lines+markers", **style))
        return traces

    return draw


def nonfinite_marks(arm: Arm, look: Look, index: int) -> list[Trace]:
    """Crosses along the upper edge where a step was non-finite."""
    times: dict[int, list[float]] = {}
    for run in arm.runs:
        bad = nonfinite_steps(run)
        for time in epoch_axis(run)[bad]:
            times.setdefault(int(time / max(run.epochs, 1) * MARKERS), []).append(float(time))
    if not times:
        return []
    mark: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": plain(f"{arm.label}: non-finite"),
        "meta": arm.key,
        "x": [round(group[0], 3) for group in times.values()],
        "y": [0.96 - 0.06 * index] * len(times),
        "yaxis": "y2",
        "text": [f"{len(group)} non-finite" for group in times.values()],
        "hovertemplate": "%{text} at epoch %{x:.2f}",
        "marker": {"symbol": "x", "size": 7, "color": look.color},
    }
    return [mark]


def _trace(arm: Arm, run: Run, curve: Curve, mode: str = "lines", **style: Any) -> Trace:
    x, y = curve
    name = arm.label if len(arm.runs) == 1 else f"{arm.label}, seed {run.seed}"
    trace: Trace = {
        "type": "scatter",
        "mode": mode,
        "name": plain(name),
        "meta": arm.key,
        "x": [round(float(value), 3) for value in x],
        "y": [float(f"{value:.4g}") if np.isfinite(value) else None for value in y],
    }
    if "hoverinfo" not in style:
        trace["hovertemplate"] = "%{y:.4g} at epoch %{x:.2f}"
    return trace | style
