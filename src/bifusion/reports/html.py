"""report.html: one file that needs no network, put together from the report and the runs' curves."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from bifusion.reports import page_text, section_details, sections
from bifusion.reports.arms import Arm
from bifusion.reports.audit_section import audit
from bifusion.reports.charts import Chart, all_charts, stages_from
from bifusion.reports.markup import Look, about
from bifusion.reports.pictures import picture_rooms
from bifusion.reports.style import arm_color, arm_dash
from bifusion.reports.text import listing, plural


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
    parts = [(anchor, name, body) for anchor, name, body in parts if body]
    return Template(_packaged("report.html.template")).substitute(
        title=escape(report["title"]),
        badges=_badges(report),
        lead=escape(_lead(report)),
        notice=f'<p class="notice">{escape(_notice(report))}</p>' if _notice(report) else "",
        chips="".join(_chip(key, look) for key, look in looks.items()),
        links="".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name, _ in parts),
        sections="\n".join(
            f'<section id="{anchor}"><h2>{escape(name)}</h2>{body}</section>'
            for anchor, name, body in parts
        ),
        created=escape(report["created"]),
        css=_packaged("report.css"),
        script=_packaged("report.js"),
        plotlyjs=get_plotlyjs().replace("</script", "<\\/script"),
        charts=embed_json([chart.figure for chart in charts]),
    )


def embed_json(value: Any) -> str:
    """JSON that may stand in a script element, whatever names it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _packaged(name: str) -> str:
    return resources.files("bifusion.reports").joinpath(name).read_text(encoding="utf-8")


def _badges(report: dict[str, Any]) -> str:
    badges = ['<span class="badge">synthetic rooms</span>'] if report["synthetic"] else []
    if not report["complete"]:
        badges.append('<span class="badge live">partial</span>')
    return "".join(badges)


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
    if report["scenes_refused"]:
        notices.append(f"Performance is not judged. {report['scenes_refused']}")
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
        html.append(f'<h3>{escape(section)}</h3><div class="charts">')
        for index, chart in enumerate(charts):
            if chart.section == section:
                html.append(
                    f'<div class="chart"><h4>{escape(chart.title)}</h4>'
                    f'<div class="plot" data-chart="{index}"></div></div>'
                )
        html.append("</div>")
    return "".join(html)
