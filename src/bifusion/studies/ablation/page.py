"""ablation.html: the report as page.html.jinja lays it out."""

from __future__ import annotations

from collections.abc import Callable

from bifusion.studies.ablation.charts import ablation_charts, point_looks
from bifusion.studies.ablation.report import AblationReport, Cell, RunsSample
from bifusion.studies.ablation.rules import LEVEL, RIVAL_WORDS
from bifusion.studies.figures.text import listing, plural, significant
from bifusion.studies.page.render import Page, render


def render_ablation(report: AblationReport) -> str:
    """The page of an ablation."""
    looks = point_looks(report)
    charts = ablation_charts(report, looks)
    arms = {arm.key: arm for arm in report.arms}
    sections = {
        "findings": "What matters",
        "rule": "The rule",
        "all-arms": "All arms" if charts else "",
        "grid": "The grid, whole",
        "not-run": "Not run",
        "arms": "Arms",
        "reading": "How to read this",
    }
    page = Page(
        kind="BiFusion ablation",
        name="ablation",
        synthetic=report.synthetic,
        lead=_lead(report),
        notice=_notice(report),
        sections=[(anchor, name) for anchor, name in sections.items() if name],
        looks=looks,
        charts=charts,
    )
    return render(
        "ablation/page.html.jinja",
        page,
        report,
        level=LEVEL,
        measures=[finding for finding in report.findings if arms[finding.arm].role != "rival"],
        rivals=[finding for finding in report.findings if arms[finding.arm].role == "rival"],
        rival_words=RIVAL_WORDS,
        arms=arms,
        cells={(cell.point, cell.arm): cell for cell in report.cells},
        ended=_ended,
        span=_span,
        factor=_factor,
        left_out=_left_out(report) or ["Nothing: the whole grid was run."],
    )


def _lead(report: AblationReport) -> str:
    removed = sum(arm.role == "removed" for arm in report.arms)
    setting, kind = report.setting, "generated room" if report.synthetic else "scene"
    text = (
        f"{report.base} with each of {plural(removed, 'stabilising measure')} removed in turn, and "
        f"its rivals, at {plural(len(report.points), 'point')} of a grid fixed beforehand, "
        f"{plural(len(report.seeds), 'seed')} each"
    )
    if setting is None:
        return text + "."
    return (
        f"{text}: {plural(setting.epochs, 'epoch')} on {plural(setting.train_scenes, kind)}, "
        f"validated on {setting.val_scenes}."
    )


def _notice(report: AblationReport) -> str:
    notices, left = [], report.not_run
    if not report.complete:
        notices.append("Runs are still to be trained: figures and judgements are those so far.")
    if left.points or left.arms:
        notices.append("The grid was narrowed; what was left out stands under “Not run”.")
    if report.refused:
        notices.append(f"Accuracy is not judged: {report.refused}")
    if left.crashed:
        notices.append(f"Crashed, and therefore without a result: {listing(left.crashed, 8)}.")
    return " ".join(notices)


def _left_out(report: AblationReport) -> list[str]:
    left, lines = report.not_run, []
    if left.points:
        lines.append(f"Points of the default grid: {'; '.join(left.points)}.")
    if left.arms:
        lines.append(f"Arms: {', '.join(left.arms)}.")
    if left.waiting:
        lines.append(f"{plural(len(left.waiting), 'run')} not ended: {listing(left.waiting, 12)}.")
    if left.crashed:
        lines.append(f"Crashed: {listing(left.crashed, 12)}.")
    return lines


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
