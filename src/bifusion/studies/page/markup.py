"""Small pieces of the page's HTML; text from outside is escaped here unless called HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from bifusion.studies.page.text import NONE, number

DASH_ARRAYS = {"dash": "5 3", "dot": "2 2.5", "dashdot": "5 2 1.5 2", "longdash": "8 3"}
"""Plotly's dashes in SVG's words."""


@dataclass(frozen=True)
class Look:
    """How an arm appears throughout the page."""

    label: str
    color: str
    dash: str

    def line(self) -> str:
        """A short piece of its line."""
        dash = DASH_ARRAYS.get(self.dash, "none")
        return (
            '<svg width="20" height="8" aria-hidden="true"><line x1="1" x2="19" y1="4" y2="4" '
            f'stroke="{self.color}" stroke-width="3" stroke-dasharray="{dash}"/></svg>'
        )

    def name(self) -> str:
        """Its line and its name."""
        return f'<span class="arm">{self.line()}{escape(self.label)}</span>'


Looks = Mapping[str, Look]
"""Key of an arm → its look, in the order of tables."""


def about(text: str) -> str:
    """What a section shows."""
    return f'<p class="about">{escape(text)}</p>'


def table(head: str, rows: list[str], kind: str = "", min_width: int = 0) -> str:
    """A table that scrolls sideways where the screen is narrower than `min_width` pixels."""
    body = f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody>"
    style = f"min-width:{min_width}px"
    return f'<div class="scroll"><table class="{kind}" style="{style}">{body}</table></div>'


def head_cells(names: list[str]) -> str:
    """Heads of columns of numbers."""
    return "".join(f'<th class="n">{escape(name)}</th>' for name in names)


def sample_cell(sample: dict[str, Any], best: float | None) -> str:
    """Mean and spread of a figure; strong where it is the best."""
    mean = sample["mean"]
    strong = " best" if best is not None and mean == best else ""
    spread = "" if sample["spread"] is None else f"<small>± {number(sample['spread'])}</small>"
    return f'<td class="n{strong}">{number(nan(mean))}{spread}</td>'


def shaded_cell(value: float | None) -> str:
    """A share of 1, the darker the larger."""
    if value is None:
        return f'<td class="n">{NONE}</td>'
    return f'<td class="n shade" style="--v:{max(0.0, min(1.0, value)):.3f}">{number(value)}</td>'


def pairs(items: list[list[str]]) -> str:
    """(what, figure) pairs below each other."""
    html = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in items)
    return f"<dl>{html}</dl>" if html else NONE


def nan(value: float | None) -> float:
    """JSON's null as a number."""
    return math.nan if value is None else value
