"""report.html: the report and the runs' curves, as page.html.jinja lays them out."""

from __future__ import annotations

import math

from bifusion.errors import listing
from bifusion.studies.comparison.audit import fact_cards, probe_table
from bifusion.studies.comparison.charts import all_charts, stages_from
from bifusion.studies.comparison.gate_charts import SECTION as GATE_SECTION
from bifusion.studies.comparison.gate_charts import gate_charts
from bifusion.studies.comparison.report import ComparisonReport
from bifusion.studies.comparison.standing import standing
from bifusion.studies.figures.arms import Arm
from bifusion.studies.figures.generated import SOME_GENERATED
from bifusion.studies.figures.metrics import Sample, over_seeds, value_at
from bifusion.studies.figures.text import span
from bifusion.studies.page.pictures import picture_rooms
from bifusion.studies.page.render import Page, render
from bifusion.studies.page.room_views import RoomViews
from bifusion.studies.page.style import arm_looks

GATE_FIGURES = {
    "standard deviation over points": "std",
    "the same within a scene": "std_within_scenes",
    "mIoU lost with its mean at every point": "flat_miou",
    "AP lost with its mean at every point": "flat_ap",
}
"""How a figure of a gate is called on the page."""
GATE_WORDS = {
    "classes": "{}",
    "views": "seen by {}",
    "distance": "cameras {} away",
    "outcome": "class {}",
    "class": "{}",
}
"""How a group of points is called on the page."""
DIFFERENCE_WORDS = {
    "all": "{}",
    "class": "{}",
    "sight": "{}",
    "views": "seen by {}",
    "distance": "cameras {} away",
}
"""The same, of what is compared."""
RESULTS = ("miou", "ap", "ap50", "ap25", "pq")
"""Figures whose best is marked."""


def render_page(report: ComparisonReport, arms: list[Arm], views: RoomViews) -> str:
    """The page of a report over its arms; `views` are pages beside it."""
    looks, rooms, audit = arm_looks(arms), picture_rooms(arms), report.audit or {}
    curves, gates = all_charts(arms, looks), gate_charts(report.gate, looks)
    sections = {
        "verdicts": ("Verdicts", True),
        "results": ("Results", True),
        "gate": ("The gate, point by point", report.gate),
        "differences": ("Where fusion helps and hurts", report.fusion_differences),
        "study": ("The five dimensions, measured", True),
        "curves": ("Curves", curves),
        "rooms": ("Rooms", rooms),
        "classes": ("Classes", report.texture or report.seen_split or report.classes.names),
        "benchmark": ("Benchmark", audit),
        "runs": ("Runs", True),
        "reading": ("How to read this", True),
    }
    page = Page(
        kind="BiFusion comparison",
        name="report",
        synthetic=report.synthetic,
        partly_synthetic=report.partly_synthetic,
        lead=_lead(report),
        notice=_notice(report),
        sections=[(anchor, name) for anchor, (name, content) in sections.items() if content],
        looks=looks,
        charts=[*curves, *gates],
    )
    entries = {arm.key: arm for arm in report.arms}
    staged, oracle = stages_from(arms), audit.get("superpoint_oracle") or {}
    return render(
        "comparison/page.html.jinja",
        page,
        report,
        judged=[entries[key] for key in dict.fromkeys(verdict.arm for verdict in report.verdicts)],
        staged=[entries[v.arm] for v in report.verdicts if v.criterion == "stage 1"],
        verdicts={(verdict.arm, verdict.criterion): verdict for verdict in report.verdicts},
        standing=standing,
        best={key: _best(report, key) for key in RESULTS},
        stages_of=staged.label if staged else None,
        curve_sections=list(dict.fromkeys(chart.section for chart in curves)),
        gate_section=GATE_SECTION,
        gate_rows=_gate_rows(report),
        difference_words=DIFFERENCE_WORDS,
        rooms=rooms,
        views=views,
        oracle=oracle,
        class_oracle=oracle.get("iou") or {},
        value_at=value_at,
        probe=probe_table(audit),
        facts=fact_cards(audit),
    )


def _lead(report: ComparisonReport) -> str:
    labels = [arm.label for arm in report.arms]
    seeds = span([len(arm.seeds) for arm in report.arms], "seed")
    length = span([run.epochs for run in report.runs], "epoch")
    scenes = span(
        [run.train_scenes for run in report.runs], "generated room" if report.synthetic else "scene"
    )
    if report.partly_synthetic:
        scenes += SOME_GENERATED
    validation = span([run.val_scenes for run in report.runs])
    label_sets = dict.fromkeys(run.label_set for run in report.runs)
    return (
        f"{listing(labels, 8)}: {seeds} each, {length} on {scenes}, validated on {validation}, "
        f"labels {listing(label_sets)}."
    )


def _notice(report: ComparisonReport) -> str:
    notices = []
    if report.goes_on:
        notices.append(
            "Runs are still training, or ended without an evaluation: figures are those so far."
        )
    if report.crashed:
        notices.append(f"Crashed, and therefore without a result: {listing(report.crashed, 8)}.")
    if report.scenes_refused:
        notices.append(f"Performance is not judged for {report.scenes_refused}")
    return " ".join([*notices, *report.cautions])


def _gate_rows(report: ComparisonReport) -> dict[str, dict[str, Sample]]:
    """What is shown of the gates → arm → it: of all points seen, then of groups of them."""
    means = {arm.key: arm.figures.fusion_2d_ratio for arm in report.arms}
    named = ("all seen", *GATE_FIGURES)
    rows: dict[str, dict[str, Sample]] = {name: {} for name in named}
    for key, entry in report.gate.items():
        rows["all seen"][key] = over_seeds(
            {seed: mean for seed, mean in means[key].by_seed.items() if seed in entry.std.by_seed}
        )
        for name, figure in GATE_FIGURES.items():
            rows[name][key] = getattr(entry, figure)
        for group in entry.groups:
            rows.setdefault(GATE_WORDS[group.kind].format(group.name), {})[key] = group.mean
    return rows


def _best(report: ComparisonReport, figure: str) -> float | None:
    """The largest mean of arms that came to their end; None where it says nothing: of one alone, of arms
    of other seeds, which may have rooms of their own, and of arms that must not be compared."""
    ended = [arm for arm in report.arms if arm.ended]
    means = (getattr(arm.figures, figure).mean for arm in ended)
    known = {mean for mean in means if math.isfinite(mean)}
    alike = len({frozenset(arm.seeds) for arm in ended}) == 1 and report.scenes_refused is None
    return max(known) if len(known) > 1 and alike else None
