"""Charts of an ablation: one row an arm, one dot a point of the grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bifusion.studies.ablation.report import AblationReport, Cell
from bifusion.studies.figures.metrics import Sample
from bifusion.studies.page.charts import Chart, Trace, plain
from bifusion.studies.page.style import Look, Looks

COLORS = ("#3f7fd0", "#dd6420", "#23997a", "#b65aa6", "#c2951a", "#55a7d6", "#7a6bd0", "#8b8f98")
ROW_HEIGHT = 21
"""Pixels an arm."""
SYMBOLS = ("circle", "diamond", "square", "cross", "triangle-up", "x", "star", "triangle-down")


def point_looks(report: AblationReport) -> Looks:
    """Each point of the grid by its key; lines tell precisions apart, colours the rest."""
    precisions = list(dict.fromkeys(point.precision for point in report.points))
    others = list(dict.fromkeys((point.lr, point.range_2d) for point in report.points))
    dashes = ("solid", "dot", "dash", "longdash")
    return {
        point.key: Look(
            point.label,
            COLORS[others.index((point.lr, point.range_2d)) % len(COLORS)],
            dashes[precisions.index(point.precision) % len(dashes)],
        )
        for point in report.points
    }


def ablation_charts(report: AblationReport, looks: Looks) -> list[Chart]:
    """Difference of accuracy, gradient spread, range ratio, faults; those that were measured."""
    planned: list[tuple[str, Callable[[Cell], Sample], str]] = [
        ("Accuracy minus that of the staged recipe", lambda c: c.difference, "linear"),
        ("Scatter of the gradient norm (log10)", lambda c: c.figures.gradient_spread, "linear"),
        ("Range of 2D over 3D features entering the heads", lambda c: c.figures.range_in, "log"),
        ("Raw non-finite steps a run", lambda c: c.figures.raw_nonfinite, "linear"),
        ("Spikes a run", lambda c: c.figures.spikes, "linear"),
        ("Alarms a run", lambda c: c.figures.unsteady, "linear"),
    ]
    charts = []
    for title, figure, scale in planned:
        traces = [
            trace
            for index, point in enumerate(report.points)
            for trace in _trace(report, point.key, index, figure, looks[point.key])
        ]
        if any(any(trace["x"]) for trace in traces):
            charts.append(Chart("All arms", title, {"data": traces, "layout": _layout(report, scale)}))
    return charts


def _trace(
    report: AblationReport, point: str, index: int, figure: Callable[[Cell], Sample], look: Look
) -> list[Trace]:
    cells = {cell.arm: cell for cell in report.cells if cell.point == point}
    told = [(plain(arm.label), figure(cells[arm.key])) for arm in report.arms]
    told = [(label, sample) for label, sample in told if sample.by_seed]
    if not told:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": plain(look.label),
            "meta": point,
            "x": [sample.mean for _, sample in told],
            "y": [label for label, _ in told],
            "error_x": {
                "type": "data",
                "array": [0.0 if math.isnan(sample.spread) else sample.spread for _, sample in told],
                "thickness": 1,
                "width": 2,
                "color": look.color,
            },
            "marker": {
                "color": look.color,
                "size": 7,
                "symbol": SYMBOLS[index % len(SYMBOLS)],
                "opacity": 0.85,
            },
            "hovertemplate": f"%{{y}}: %{{x:.4g}} at {plain(look.label)}<extra></extra>",
        }
    ]


def _layout(report: AblationReport, scale: str) -> dict[str, Any]:
    labels = [plain(arm.label) for arm in report.arms]
    return {
        "margin": {"l": 190, "r": 12, "t": 8, "b": 34},
        "height": 60 + ROW_HEIGHT * len(report.arms),
        "showlegend": False,
        "xaxis": {"type": scale, "zeroline": scale == "linear", "zerolinewidth": 2},
        "yaxis": {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": labels[::-1],
            "range": [-0.7, len(labels) - 0.3],
            "zeroline": False,
        },
    }
