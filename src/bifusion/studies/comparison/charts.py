"""Which charts the report shows, and how each is laid out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from bifusion.losses.terms import LOSS_TERMS, LossTerm
from bifusion.models.parts import BY_NAME
from bifusion.runs.run_folder import StageSpan
from bifusion.studies.comparison.curves import (
    Draw,
    gate_draw,
    nonfinite_marks,
    pair_draw,
    step_draw,
    validation_draw,
)
from bifusion.studies.comparison.verdicts import GATE_RANGE
from bifusion.studies.figures.arms import FIRST_ROLE, Arm, find_role
from bifusion.studies.figures.metrics import MEAN_GATE
from bifusion.studies.page.charts import HEIGHT, Chart, Trace, plain, wanted_range
from bifusion.studies.page.style import Looks

PATH_TITLES = {"total": "All parameters", **{name: part.label for name, part in BY_NAME.items()}}
Scale = Literal["linear", "log", "unit"]


@dataclass(frozen=True)
class Plan:
    """A chart that the report shows if some run measured it."""

    section: str
    title: str
    draw: Draw
    scale: Scale = "linear"
    """"unit": from 0 to 1."""
    wanted: tuple[float, float] | None = None
    """Range of values that a criterion asks for, marked in the chart."""


def all_charts(arms: list[Arm], looks: Looks) -> list[Chart]:
    """Every chart that has something to show, in the order of the page."""
    staged = stages_from(arms)
    stages = staged.first.stages if staged else []
    epochs = max(arm.first.epochs for arm in arms)
    marks = [
        mark for index, arm in enumerate(arms) for mark in nonfinite_marks(arm, looks[arm.key], index)
    ]
    charts = []
    for plan in _plans(arms):
        traces = [trace for arm in arms for trace in plan.draw(arm, looks[arm.key])]
        if not traces:
            continue
        layout = _layout(plan, traces, stages, epochs)
        if plan.section != "Validation":
            traces += marks
        charts.append(Chart(plan.section, plan.title, {"data": traces, "layout": layout}))
    return charts


def stages_from(arms: list[Arm]) -> Arm | None:
    """The arm whose stages the background shows: the one the comparison is about, if it has any."""
    staged = [arm for arm in arms if len(arm.first.stages) > 1]
    return find_role(staged, FIRST_ROLE) or next(iter(staged), None)


def _plans(arms: list[Arm]) -> list[Plan]:
    found = dict.fromkeys(
        term for arm in arms for run in arm.runs for step in run.steps for term in step["losses"]
    )
    return [
        Plan("Validation", "mIoU", validation_draw("miou")),
        Plan("Validation", "AP50", validation_draw("ap50")),
        Plan(
            "Validation",
            "Mean gate on seen points",
            validation_draw(MEAN_GATE),
            "unit",
            GATE_RANGE,
        ),
        Plan("Fusion", "α over seen points: mean ± spread", gate_draw, "unit"),
        Plan("Fusion", "s, the scale of the gate", step_draw(["gate", "scale"], raw=False), "unit"),
        Plan("Fusion", "Share of 2D in the fused features", step_draw(["gate", "share_2d"]), "unit"),
        Plan("Fusion", "Cosine of 2D and 3D features", step_draw(["cosine"])),
        Plan("Fusion", "Share of points seen", step_draw(["seen_share"]), "unit"),
        Plan("Losses", "Weighted total", step_draw(["total"]), "log"),
        *_loss_plans(list(found)),
        *(
            Plan("Gradient norms", title, step_draw(["grad_norm", path]), "log")
            for path, title in PATH_TITLES.items()
        ),
        Plan(
            "Feature ranges",
            "RMS entering the heads: 2D line, 3D dots",
            pair_draw("f2d_in", "f3d_in"),
            "log",
        ),
        Plan(
            "Feature ranges",
            "RMS after heads and FiLM: 2D line, 3D dots",
            pair_draw("f2d", "f3d"),
            "log",
        ),
        Plan(
            "Feature ranges",
            "Ratio 2D / 3D entering the heads",
            step_draw(["ranges", "ratio_in"]),
            "log",
        ),
        Plan("Feature ranges", "Ratio 2D / 3D after them", step_draw(["ranges", "ratio_out"]), "log"),
    ]


# --------------------------------------------------------------------------------------- layout


def _layout(plan: Plan, traces: list[Trace], stages: list[StageSpan], epochs: int) -> dict[str, Any]:
    shapes = [_band(stage, index) for index, stage in enumerate(stages)]
    if plan.wanted:
        shapes.append(wanted_range(*plan.wanted))
    return {
        "margin": {"l": 44, "r": 10, "t": 20, "b": 34},
        "height": HEIGHT,
        "showlegend": False,
        "shapes": shapes,
        "annotations": [_stage_name(stage) for stage in stages],
        "xaxis": {"range": [0, epochs], "title": {"text": "epoch", "standoff": 4}, "zeroline": False},
        "yaxis": _value_axis(plan.scale, traces),
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    }


def _loss_plans(found: list[str]) -> list[Plan]:
    """A chart a loss term, in the table's order; those from outside the package last."""
    plans = [
        Plan("Losses", term.title, step_draw(["losses", name]), _scale_of(term))
        for name, term in LOSS_TERMS.items()
        if name in found
    ]
    outside = [name for name in found if name not in LOSS_TERMS]
    return plans + [Plan("Losses", name, step_draw(["losses", name])) for name in outside]


def _scale_of(term: LossTerm) -> Scale:
    return "linear" if term.may_be_negative else "log"


def _value_axis(scale: Scale, traces: list[Trace]) -> dict[str, Any]:
    if scale == "unit":
        return {"range": [-0.02, 1.02], "zeroline": False, "dtick": 0.25}
    if scale == "linear":
        return {"zeroline": False}
    logs = [math.log10(y) for trace in traces for y in trace["y"] if y is not None and y > 0]
    low, high = (min(logs), max(logs)) if logs else (0.0, 0.0)
    margin = max(0.06, (0.6 - (high - low)) / 2)  # a flat curve still gets a few ticks
    ticks = _log_ticks(low - margin, high + margin)
    return {
        "type": "log",
        "zeroline": False,
        "range": [low - margin, high + margin],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _log_ticks(low: float, high: float) -> list[float]:
    """About three to eight round values from 10^low to 10^high."""
    span = high - low
    digits = (
        (1.0,) if span > 2.5 else (1.0, 2.0, 5.0) if span > 0.9 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    )
    decades = range(math.floor(low), math.ceil(high) + 1)
    return [d * 10.0**k for k in decades for d in digits if low <= math.log10(d) + k <= high]


def _band(stage: StageSpan, index: int) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "x", "yref": "paper", "layer": "below", "line": {"width": 0},
        "x0": stage.first_epoch, "x1": stage.end_epoch, "y0": 0, "y1": 1,
        "fillcolor": f"rgba(128,138,160,{0.04 + 0.09 * (index % 2):.2f})",
    }  # fmt: skip


def _stage_name(stage: StageSpan) -> dict[str, Any]:
    return {
        "xref": "x", "yref": "paper", "x": (stage.first_epoch + stage.end_epoch) / 2, "y": 1.0,
        "yanchor": "bottom", "showarrow": False, "text": plain(stage.name), "font": {"size": 10},
    }  # fmt: skip
