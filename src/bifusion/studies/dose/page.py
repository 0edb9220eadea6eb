"""dose.html: the report as page.html.jinja lays it out."""

from __future__ import annotations

from bifusion.errors import listing
from bifusion.studies.dose.charts import PART_LABELS, dose_charts
from bifusion.studies.dose.report import DoseArm, DoseReport, stopped_lines
from bifusion.studies.figures.arms import MIN_SEEDS
from bifusion.studies.figures.metrics import Sample
from bifusion.studies.figures.text import number, signed, span
from bifusion.studies.page.render import Page, render
from bifusion.studies.page.style import Looks
from bifusion.wording import plural


def render_dose(dose: DoseReport, looks: Looks) -> str:
    """The page of a dose report; `looks` by the keys of its arms."""
    charts = dose_charts(dose, looks)
    page = Page(
        kind="BiFusion dose and response",
        name="dose",
        synthetic=True,
        lead=_lead(dose),
        notice=_notice(dose),
        sections=[
            ("gain", "Gain"),
            ("rooms", "Rooms"),
            ("models", "Models"),
            ("reading", "How to read this"),
        ],
        looks=looks,
        charts=charts,
    )
    return render(
        "dose/page.html.jinja",
        page,
        dose,
        zero_is_a_level=any(level.expected_zero for level in dose.levels),
        measured_at_zero=_measured_at_zero(dose),
        part_labels=PART_LABELS,
        gated=_gated(dose),
        min_seeds=MIN_SEEDS,
    )


def _gated(dose: DoseReport) -> list[DoseArm]:
    """Arms with a learned gate at some value."""
    entries = {arm.key: [level.arms.get(arm.key) for level in dose.levels] for arm in dose.arms}
    return [a for a in dose.arms if any(e is not None and e.gate is not None for e in entries[a.key])]


def _measured_at_zero(dose: DoseReport) -> list[str]:
    """The gain of each arm where it is expected to be zero."""
    levels = [level for level in dose.levels if level.expected_zero]
    return [
        f"{arm.label} {_gain_text(entry.gain.all)}"
        for level in levels
        for arm in dose.arms
        if (entry := level.arms.get(arm.key)) and entry.gain is not None and entry.gain.all.by_seed
    ]


def _gain_text(sample: Sample) -> str:
    """ "+0.012 ± 0.010, 3 seeds (within its spread)"."""
    seeds = plural(len(sample.by_seed), "seed")
    if len(sample.by_seed) < 2:
        return f"{signed(sample.mean)}, {seeds}"
    size = "within its spread" if abs(sample.mean) <= sample.spread else "beyond its spread"
    return f"{signed(sample.mean)} ± {number(sample.spread)}, {seeds} ({size})"


def _lead(dose: DoseReport) -> str:
    labels = [arm.label for arm in dose.gaining]
    values = ", ".join(f"{level.value:g}" for level in dose.levels)
    seeds = [len(entry.states) for level in dose.levels for entry in level.arms.values()] or [0]
    return (
        f"What images add to {listing(labels) or 'a model'} as {dose.knob.label.lower()} takes "
        f"the values {values}: {span(seeds, 'seed')} each, on generated rooms."
    )


def _notice(dose: DoseReport) -> str:
    notices = []
    if dose.waiting:
        notices.append("Runs are still to be trained or evaluated: figures are those so far.")
    if dose.crashed:
        notices.append(f"Crashed, and therefore without a result: {listing(dose.crashed, 8)}.")
    notices += stopped_lines(dose)
    refused = {e.refused for level in dose.levels for e in level.arms.values() if e.refused}
    left_out = [f"A gain is left out: {reason}" for reason in sorted(refused)]
    return " ".join([*notices, *left_out, *dose.cautions])
