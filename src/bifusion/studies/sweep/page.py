"""sweep.html: the report as page.html.jinja lays it out."""

from __future__ import annotations

from bifusion.studies.grids.report import lead, left_out, notice
from bifusion.studies.page.render import Page, render
from bifusion.studies.sweep.charts import curve_key, sweep_charts, sweep_looks
from bifusion.studies.sweep.findings import breaking_text, range_text
from bifusion.studies.sweep.report import RunOutcome, SweepNotRun, SweepReport
from bifusion.wording import plural


def render_sweep(report: SweepReport) -> str:
    """The page of a sweep."""
    looks = sweep_looks(report)
    charts = sweep_charts(report, looks)
    shown = {chart.section for chart in charts}
    grid = _left_of_the_grid(report.not_run)
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
        partly_synthetic=report.partly_synthetic,
        lead=_lead(report),
        notice=notice(report, grid),
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
        left_out=left_out(report.not_run, grid),
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
    return lead(
        report,
        f"{plural(len(report.arms), 'arm')} of {report.base} at {plural(len(report.factors), 'rate')} "
        f"from × {report.factors[0]:g} to × {report.factors[-1]:g} of each recipe’s own",
    )


def _left_of_the_grid(left: SweepNotRun) -> list[str]:
    """What of the default grid was left out, a sentence each."""
    lines = []
    if left.factors:
        lines.append(f"Rates: {', '.join(f'× {factor:g}' for factor in left.factors)}.")
    if left.conditions:
        lines.append(f"Conditions: {', '.join(left.conditions)}.")
    return lines
