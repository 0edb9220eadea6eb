"""ablation.html: the report as page.html.jinja lays it out."""

from __future__ import annotations

from collections.abc import Callable

from bifusion.studies.ablation.charts import ablation_charts, point_looks
from bifusion.studies.ablation.report import AblationReport, Cell, RunsSample
from bifusion.studies.ablation.rules import LEVEL, RIVAL_WORDS
from bifusion.studies.figures.text import significant
from bifusion.studies.grids.page import render_grid
from bifusion.wording import plural


def render_ablation(report: AblationReport) -> str:
    """The page of an ablation."""
    looks = point_looks(report)
    charts = ablation_charts(report, looks)
    arms = {arm.key: arm for arm in report.arms}
    points = "; ".join(report.not_run.points)
    removed = sum(arm.role == "removed" for arm in report.arms)
    sections = {
        "findings": "What matters",
        "rule": "The rule",
        "all-arms": "All arms" if charts else "",
        "grid": "The grid, whole",
        "not-run": "Not run",
        "arms": "Arms",
        "reading": "How to read this",
    }
    return render_grid(
        "ablation",
        "BiFusion ablation",
        report,
        arms_and_points=(
            f"{report.base} with each of {plural(removed, 'stabilising measure')} removed in turn, and "
            f"its rivals, at {plural(len(report.points), 'point')} of a grid fixed beforehand"
        ),
        of_the_grid=[f"Points of the default grid: {points}."] if points else [],
        sections=sections,
        looks=looks,
        charts=charts,
        level=LEVEL,
        measures=[finding for finding in report.findings if arms[finding.arm].role != "rival"],
        rivals=[finding for finding in report.findings if arms[finding.arm].role == "rival"],
        rival_words=RIVAL_WORDS,
        arms=arms,
        cells={(cell.point, cell.arm): cell for cell in report.cells},
        ended=_ended,
        span=_span,
        factor=_factor,
    )


def _ended(cell: Cell) -> str:
    """States of the seeds."""
    states = list(cell.states.values())
    if set(states) == {"completed"}:
        return f"{len(states)} of {len(states)}"
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return "; ".join(
        f"{count} {state.replace('guard_stopped', 'stopped')}" for state, count in counts.items()
    )


def _span(sample: RunsSample, show: Callable[[float], str] = significant) -> str:
    """From the smallest to the largest over the seeds; empty under two."""
    values = sample.by_seed.values()
    return f"{show(min(values))} to {show(max(values))}" if len(values) > 1 else ""


def _factor(scatter: float) -> str:
    """A scatter of log10 as a factor."""
    return f"{10**scatter:.2f}"
