"""sweep.html: the report as page.html.jinja lays it out."""

from __future__ import annotations

from bifusion.studies.grids.page import render_grid
from bifusion.studies.sweep.charts import curve_key, sweep_charts, sweep_looks
from bifusion.studies.sweep.findings import breaking_text, range_text
from bifusion.studies.sweep.report import RunOutcome, SweepNotRun, SweepReport
from bifusion.wording import plural


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
    return render_grid(
        "sweep",
        "BiFusion sweep of learning rates",
        report,
        arms_and_points=(
            f"{plural(len(report.arms), 'arm')} of {report.base} at "
            f"{plural(len(report.factors), 'rate')} from × {report.factors[0]:g} to "
            f"× {report.factors[-1]:g} of each recipe’s own"
        ),
        of_the_grid=_left_of_the_grid(report.not_run),
        sections=sections,
        looks=looks,
        charts=charts,
        labels={curve_key(curve): looks[curve_key(curve)].label for curve in report.curves},
        key_of=curve_key,
        range_text=range_text,
        breaking_text=breaking_text,
        told=_told,
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


def _left_of_the_grid(left: SweepNotRun) -> list[str]:
    """What of the default grid was left out, a sentence each."""
    lines = []
    if left.factors:
        lines.append(f"Rates: {', '.join(f'× {factor:g}' for factor in left.factors)}.")
    if left.conditions:
        lines.append(f"Conditions: {', '.join(left.conditions)}.")
    return lines
