"""A chart of a page, and how text from outside enters it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Trace = dict[str, Any]
"""A plotly trace; its "meta" names the arm that a chip shows and hides."""
HEIGHT = 240
"""Pixels."""


@dataclass(frozen=True)
class Chart:
    """One plotly figure of a section of a page."""

    section: str
    title: str
    figure: dict[str, Any]

    @property
    def height(self) -> int:
        return self.figure["layout"]["height"]


def wanted_range(low: float, high: float, axis: str = "y") -> dict[str, Any]:
    """A shape that marks the range a criterion asks for, across the whole of the other axis."""
    across = "x" if axis == "y" else "y"
    return {
        "type": "rect", f"{across}ref": "paper", f"{axis}ref": axis, "layer": "below",
        f"{across}0": 0, f"{across}1": 1, f"{axis}0": low, f"{axis}1": high,
        "fillcolor": "rgba(46,160,100,0.10)",
        "line": {"width": 1, "dash": "dot", "color": "rgba(46,160,100,0.7)"},
    }  # fmt: skip


def plain(text: str) -> str:
    """`text` for a plotly figure, which would read tags and hover templates in it."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("%{", "%&#123;")
