"""sweep.html: the report as page.html.jinja lays it out."""

from __future__ import annotations

from bifusion.studies.figures.text import listing, plural
from bifusion.studies.page.render import Page, render
from bifusion.studies.sweep.charts import curve_key, sweep_charts, sweep_looks
from bifusion.studies.sweep.findings import breaking_text, range_text
from bifusion.studies.sweep.report import RunOutcome, SweepReport


def render_sweep(report: SweepReport) -> str:
    """The page of a sweep."""
    looks = sweep_looks(report)
    charts = sweep_charts(report, looks)
    shown = {chart.section for chart in charts}
    sections = {
        "findings": "What came out",
        "curves": "Curves" if "Curves" in shown else "",
        "conditions": "Conditions" if "Conditions" in shown else "",
        "every-rate": "Every rate",
        "definitions": "Definitions",
        "not-run": "Not run",
        "arms": "Arms and conditions",
    }
    page = Page(
        kind="BiFusion sweep of learning rates",
        name="sweep",
        synthetic=report.synthetic,
        lead=_lead(report),
        notice=_notice(report),
        sections=[(anchor, name) for anchor, name in sections.items() if name],
        looks=looks,
        charts=charts,
    )
    return render(
        "sweep/page.html.jinja",
        page,
        report,
        labels={curve_key(curve): looks[curve_key(curve)].label for curve in report.curves},
        key_of=curve_key,
        range_text=range_text,
        breaking_text=breaking_text,
        told=_told,
        left_out=_left_out(report) or ["Nothing: the whole grid was run."],
    )


def _told(run: RunOutcome) -> str:
    """ "seed 0: gate dead from step 31, then one class (340)"."""
    if run.verdict is None:
        return f"seed {run.seed}: {run.state}"
    if not run.breaks:
        return f"seed {run.seed}: learns"
    first, *later = run.breaks
    text = f"seed {run.seed}: {run.verdict} from step {first.step} ({first.where})"
    if later:
        text += ", then " + ", ".join(f"{b.kind} ({b.step})" for b in later)
    return text


def _lead(report: SweepReport) -> str:
    setting, kind = report.setting, "generated room" if report.synthetic else "scene"
    text = (
        f"{plural(len(report.arms), 'arm')} of {report.base} at {plural(len(report.factors), 'rate')} "
        f"from × {report.factors[0]:g} to × {report.factors[-1]:g} of each recipe’s own, "
        f"{plural(len(report.seeds), 'seed')} each"
    )
    if setting is None:
        return text + "."
    return (
        f"{text}: {plural(setting.epochs, 'epoch')} on {plural(setting.train_scenes, kind)}, "
        f"validated on {setting.val_scenes}."
    )


def _notice(report: SweepReport) -> str:
    notices, left = [], report.not_run
    if not report.complete:
        notices.append("Runs are still to be trained: figures and verdicts are those so far.")
    if left.factors or left.conditions or left.arms:
        notices.append("The grid was narrowed; what was left out stands under “Not run”.")
    if report.refused:
        notices.append(f"Arms are not compared: {report.refused}")
    if left.crashed:
        notices.append(f"Crashed, and therefore without a result: {listing(left.crashed, 8)}.")
    return " ".join(notices)


def _left_out(report: SweepReport) -> list[str]:
    left, lines = report.not_run, []
    if left.factors:
        lines.append(f"Rates: {', '.join(f'× {factor:g}' for factor in left.factors)}.")
    if left.conditions:
        lines.append(f"Conditions: {', '.join(left.conditions)}.")
    if left.arms:
        lines.append(f"Arms: {', '.join(left.arms)}.")
    if left.waiting:
        lines.append(f"{plural(len(left.waiting), 'run')} not ended: {listing(left.waiting, 12)}.")
    if left.crashed:
        lines.append(f"Crashed: {listing(left.crashed, 12)}.")
    return lines
