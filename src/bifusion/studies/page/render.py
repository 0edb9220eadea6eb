"""A page from its template: one HTML file that needs no network. Whatever it shows is escaped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from bifusion.errors import listing
from bifusion.storage.json_files import embed_json
from bifusion.studies.figures import text
from bifusion.studies.page.charts import Chart
from bifusion.studies.page.files import StudyReport
from bifusion.studies.page.style import Looks
from bifusion.wording import plural


@dataclass(frozen=True)
class Page:
    """The frame around a study's sections."""

    kind: str
    """What study it is."""
    name: str
    """NAME.json and NAME.schema.json stand beside it."""
    synthetic: bool
    lead: str
    """What was done, in a sentence."""
    notice: str
    """Empty where there is nothing to warn of."""
    sections: Sequence[tuple[str, str]]
    """(anchor, name) of each; the study's template has a block of the anchor's name, with _ for -."""
    looks: Looks
    """What the chips show and hide, by the "meta" of traces."""
    charts: Sequence[Chart]
    partly_synthetic: bool = False


def render(template: str, page: Page, report: StudyReport, **shown: Any) -> str:
    """The page that `template`, a path under studies/, makes of a report and what else is `shown`."""
    trusted = {
        "css": _packaged("page.css"),
        "script": _packaged("page.js"),
        "plotlyjs": get_plotlyjs().replace("</script", "<\\/script"),
        "figures": embed_json([chart.figure for chart in page.charts]),
    }
    # The one place that marks text as safe: the package's own, plotly's, and JSON without < > &.
    marked = {name: Markup(content) for name, content in trusted.items()}
    return _environment().get_template(template).render(page=page, report=report, **marked, **shown)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bifusion.studies", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for how in (text.number, text.signed, text.significant, text.count, text.duration, plural):
        environment.filters[how.__name__] = how
    environment.filters["listing"] = listing
    environment.filters["readable_json"] = lambda value: json.dumps(value, indent=2)
    return environment


def _packaged(name: str) -> str:
    return resources.files("bifusion.studies.page").joinpath(name).read_text(encoding="utf-8")
