"""report.html: one file that needs no network, put together from the report and the runs' curves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from bifusion.studies.comparison import section_details, sections
from bifusion.studies.comparison import text as page_text
from bifusion.studies.comparison.audit_section import audit
from bifusion.studies.comparison.charts import Chart, all_charts, stages_from
from bifusion.studies.figures.arms import Arm
from bifusion.studies.page.markup import Look, Looks, about
from bifusion.studies.page.pictures import picture_rooms
from bifusion.studies.page.style import arm_color, arm_dash
from bifusion.studies.page.text import listing, plural


def render_page(report: dict[str, Any], arms: list[Arm]) -> str:
    """The page of a report (`build_report`'s content) over its arms."""
    charts = all_charts(arms)
    looks = {
        arm.key: Look(arm.label, arm_color(arm, index), arm_dash(arm)) for index, arm in enumerate(arms)
    }
    parts = [
        ("verdicts", "Verdicts", sections.verdicts(report, looks)),
        ("results", "Results", sections.results(report, looks)),
        ("study", "The five dimensions, measured", sections.study(report, looks)),
        ("curves", "Curves", _curves(charts, arms)),
        ("rooms", "Rooms", section_details.rooms(picture_rooms(arms), looks)),
        ("classes", "Classes", section_details.classes(report, looks)),
        ("benchmark", "Benchmark", audit(report["audit"])),
        ("runs", "Runs", section_details.runs(report)),
        ("reading", "How to read this", section_details.reading(report)),
    ]
    page = Page(
        kind="BiFusion comparison",
        title=report["title"],
        created=report["created"],
        data="report.json",
        badges=badges(synthetic=report["synthetic"], complete=report["complete"]),
        lead=_lead(report),
        notice=_notice(report),
    )
    return fill_page(page, parts, looks, [chart.figure for chart in charts])


@dataclass(frozen=True)
class Page:
    """The frame of a page; plain text but for `badges`."""

    kind: str
    title: str
    created: str
    data: str
    """Name of the JSON file beside it; its schema is NAME.schema.json in this package."""
    badges: str
    lead: str
    notice: str
    """Empty where there is nothing to warn of."""


def fill_page(
    page: Page, parts: list[tuple[str, str, str]], looks: Looks, figures: list[dict[str, Any]]
) -> str:
    """One file that needs no network: frame, (anchor, name, HTML) of each part, chips and charts.

    `figures` are plotly's; an element of class "plot" shows the one that its data-chart counts.
    Parts without content are left out.
    """
    parts = [(anchor, name, body) for anchor, name, body in parts if body]
    return Template(_packaged("report.html.template")).substitute(
        eyebrow=escape(page.kind),
        title=escape(page.title),
        badges=page.badges,
        lead=escape(page.lead),
        notice=f'<p class="notice">{escape(page.notice)}</p>' if page.notice else "",
        chips="".join(_chip(key, look) for key, look in looks.items()),
        links="".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in parts),
        sections="\n".join(
            f'<section id="{anchor}"><h2>{escape(name)}</h2>{body}</section>'
            for anchor, name, body in parts
        ),
        created=escape(page.created),
        data=escape(page.data),
        schema=escape(page.data.replace(".json", ".schema.json")),
        css=_packaged("report.css"),
        script=_packaged("report.js"),
        plotlyjs=get_plotlyjs().replace("</script", "<\\/script"),
        charts=embed_json(figures),
    )


def embed_json(value: Any) -> str:
    """JSON that may stand in a script element, whatever names it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _packaged(name: str) -> str:
    return resources.files("bifusion.studies.page").joinpath(name).read_text(encoding="utf-8")


def badges(*, synthetic: bool, complete: bool) -> str:
    """What a reader must know before any figure."""
    found = ['<span class="badge">synthetic rooms</span>'] if synthetic else []
    if not complete:
        found.append('<span class="badge live">partial</span>')
    return "".join(found)


def _lead(report: dict[str, Any]) -> str:
    runs = report["runs"]
    labels = [arm["label"] for arm in report["arms"]]
    seeds = max(len(arm["seeds"]) for arm in report["arms"])
    epochs = sorted({run["epochs"] for run in runs})
    length = f"{epochs[0]} epochs" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs"
    kind = "generated room" if report["synthetic"] else "scene"
    first = runs[0]
    return (
        f"{listing(labels, 8)}: {plural(seeds, 'seed')} each, {length} on "
        f"{plural(first['train_scenes'], kind)}, validated on {first['val_scenes']}, "
        f"labels {first['label_set']}."
    )


def _notice(report: dict[str, Any]) -> str:
    notices = []
    if not report["complete"]:
        notices.append(
            "Runs are still training, or ended without an evaluation: figures are those so far."
        )
    if report["crashed"]:
        notices.append(f"Crashed, and therefore without a result: {listing(report['crashed'], 8)}.")
    if report["scenes_refused"]:
        notices.append(f"Performance is not judged for {report['scenes_refused']}")
    return " ".join(notices)


def _chip(key: str, look: Look) -> str:
    return (
        f'<button class="chip" type="button" data-arm="{escape(key)}" aria-pressed="true" '
        f'title="Show or hide in all curves">{look.line()}{escape(look.label)}</button>'
    )


def _curves(charts: list[Chart], arms: list[Arm]) -> str:
    if not charts:
        return ""
    staged = stages_from(arms)
    bands = f" Bands: the stages of {staged.label}." if staged else ""
    html = [about(f"{page_text.CURVES}{bands} {page_text.CHIPS}")]
    for section in dict.fromkeys(chart.section for chart in charts):
        html.append(f"<h3>{escape(section)}</h3>{chart_grid(charts, section)}")
    return "".join(html)


def chart_grid(charts: list[Chart], section: str) -> str:
    """Places of the charts of a section; `fill_page` takes the figures of all, in the same order."""
    places = [
        f'<div class="chart"><h4>{escape(chart.title)}</h4>'
        f'<div class="plot" data-chart="{index}"></div></div>'
        for index, chart in enumerate(charts)
        if chart.section == section
    ]
    return f'<div class="charts">{"".join(places)}</div>'
