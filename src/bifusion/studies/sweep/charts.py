"""Charts of a sweep: a figure over the factor on the rate, one line an arm or, for further conditions,
one line a condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from bifusion.studies.figures.metrics import Sample
from bifusion.studies.page.charts import HEIGHT, Chart, Trace, plain
from bifusion.studies.page.style import COLORS, DASHES, OTHER_COLORS, Look, Looks
from bifusion.studies.sweep.grid import PLAIN
from bifusion.studies.sweep.report import Curve, Rate, RateFigures, SweepReport

PLOTTED: tuple[tuple[str, Callable[[RateFigures], Sample], str], ...] = (
    ("mIoU", lambda figures: figures.miou, "linear"),
    ("Final loss, no more than at the start", lambda figures: figures.final_loss, "log"),
    ("Raw non-finite steps a run", lambda figures: figures.raw_nonfinite, "linear"),
    ("Alarms a run", lambda figures: figures.alarms, "linear"),
    ("Mean gate", lambda figures: figures.gate, "linear"),
    ("AP", lambda figures: figures.ap, "linear"),
)


def sweep_looks(report: SweepReport) -> Looks:
    """Each curve by its key: a colour an arm; of further conditions a colour each, dashed by arm."""
    arms = {arm.key: arm for arm in report.arms}
    conditions = [condition for condition in report.conditions if condition != PLAIN]
    looks = {}
    for curve in report.curves:
        arm = arms[curve.arm]
        color, dash = COLORS.get(arm.role, OTHER_COLORS[0]), DASHES.get(arm.role, "solid")
        label = arm.label
        for index, condition in enumerate(conditions):
            if curve.condition == condition.key:
                palette = (*OTHER_COLORS, *COLORS.values())
                color, label = palette[index % len(palette)], f"{arm.label}, {condition.label}"
        looks[curve_key(curve)] = Look(label, color, dash)
    return looks


def curve_key(curve: Curve) -> str:
    """Its name among a page's traces."""
    return f"{curve.arm} {curve.condition}"


def sweep_charts(report: SweepReport, looks: Looks) -> list[Chart]:
    """Every figure that was measured: of all arms, and of each arm under every condition."""
    sections: list[tuple[str, Sequence[Curve]]] = [
        ("Curves", [curve for curve in report.curves if curve.condition == PLAIN.key])
    ]
    compared = dict.fromkeys(c.arm for c in report.curves if c.condition != PLAIN.key)
    of_compared = [curve for curve in report.curves if curve.arm in compared]
    if of_compared:
        sections.append(("Conditions", of_compared))
    charts = []
    for section, curves in sections:
        for title, figure, scale in PLOTTED:
            traces = [trace for curve in curves for trace in _trace(curve, figure, looks)]
            if traces:
                charts.append(Chart(section, title, {"data": traces, "layout": _layout(scale)}))
    return charts


def _trace(curve: Curve, figure: Callable[[RateFigures], Sample], looks: Looks) -> list[Trace]:
    look = looks[curve_key(curve)]
    told = [(rate, figure(rate.figures)) for rate in curve.rates]
    told = [(rate, sample) for rate, sample in told if sample.by_seed]
    if not told:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": plain(look.label),
            "meta": curve_key(curve),
            "x": [rate.factor for rate, _ in told],
            "y": [sample.mean for _, sample in told],
            "error_y": {
                "type": "data",
                "array": [0.0 if math.isnan(sample.spread) else sample.spread for _, sample in told],
                "thickness": 1,
                "width": 2,
            },
            "line": {"color": look.color, "dash": look.dash, "width": 2},
            "marker": {"color": look.color, "size": 7, "symbol": [_symbol(rate) for rate, _ in told]},
            "text": [plain(_verdicts(rate)) for rate, _ in told],
            "hovertemplate": f"{plain(look.label)}, × %{{x}}: %{{y:.4g}}<br>%{{text}}<extra></extra>",
        }
    ]


def _symbol(rate: Rate) -> str:
    """A cross where most runs broke."""
    told = [run.verdict for run in rate.runs if run.verdict is not None]
    bad = [verdict for verdict in told if verdict not in ("learns", "too slow")]
    return "x" if 2 * len(bad) > len(told) else "circle"


def _verdicts(rate: Rate) -> str:
    return "; ".join(f"seed {run.seed}: {run.verdict or run.state}" for run in rate.runs)


def _layout(scale: str) -> dict[str, Any]:
    return {
        "margin": {"l": 52, "r": 12, "t": 8, "b": 40},
        "height": HEIGHT,
        "showlegend": False,
        "xaxis": {"type": "log", "title": {"text": "factor on the arm’s own rate"}},
        "yaxis": {"type": scale},
    }
