"""The page of a study over a grid, as far as all of them are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bifusion.errors import listing
from bifusion.studies.figures.generated import SOME_GENERATED
from bifusion.studies.grids.report import GridReport, NotRun
from bifusion.studies.page.charts import Chart
from bifusion.studies.page.render import Page, render
from bifusion.studies.page.style import Looks
from bifusion.wording import plural


def render_grid(
    name: str,
    kind: str,
    report: GridReport,
    *,
    arms_and_points: str,
    of_the_grid: Sequence[str],
    sections: Mapping[str, str],
    looks: Looks,
    charts: Sequence[Chart],
    **shown: Any,
) -> str:
    """NAME.html, by the template of the study that is so called.

    Args:
        kind: what study it is.
        arms_and_points: how the first sentence begins.
        of_the_grid: what of the default grid was left out, a sentence each.
        sections: anchor → name; one without a name is left out.
        looks, charts: as of `Page`.
        shown: what else the template asks for.
    """
    page = Page(
        kind=kind,
        name=name,
        synthetic=report.synthetic,
        partly_synthetic=report.partly_synthetic,
        lead=_lead(report, arms_and_points),
        notice=_notice(report, of_the_grid),
        sections=[(anchor, section) for anchor, section in sections.items() if section],
        looks=looks,
        charts=charts,
    )
    left_out = _left_out(report.not_run, of_the_grid)
    return render(f"{name}/page.html.jinja", page, report, left_out=left_out, **shown)


def _lead(report: GridReport, arms_and_points: str) -> str:
    """The first sentence of a page: what was run on what."""
    text = f"{arms_and_points}, {plural(len(report.seeds), 'seed')} each"
    setting, kind = report.setting, "generated room" if report.synthetic else "scene"
    if setting is None:
        return text + "."
    scenes = plural(setting.train_scenes, kind)
    if report.partly_synthetic:
        scenes += SOME_GENERATED
    return f"{text}: {plural(setting.epochs, 'epoch')} on {scenes}, validated on {setting.val_scenes}."


def _notice(report: GridReport, of_the_grid: Sequence[str]) -> str:
    """What a reader must know before the figures; empty if nothing."""
    notices = []
    if not report.complete:
        notices.append("Runs are still to be trained: figures and verdicts are those so far.")
    if of_the_grid or report.not_run.arms:
        notices.append("The grid was narrowed; what was left out stands under “Not run”.")
    if report.refused:
        notices.append(f"Accuracies are not compared: {report.refused}")
    if crashed := report.not_run.crashed:
        notices.append(f"Crashed, and therefore without a result: {listing(crashed, 8)}.")
    return " ".join([*notices, *report.cautions])


def _left_out(left: NotRun, of_the_grid: Sequence[str]) -> list[str]:
    """What was not run, a sentence each, first those on what is left out `of_the_grid`."""
    lines = list(of_the_grid)
    if left.arms:
        lines.append(f"Arms: {', '.join(left.arms)}.")
    if left.waiting:
        lines.append(f"{plural(len(left.waiting), 'run')} not ended: {listing(left.waiting, 12)}.")
    if left.crashed:
        lines.append(f"Crashed: {listing(left.crashed, 12)}.")
    return lines or ["Nothing: the whole grid was run."]
