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


def plain(text: str) -> str:
    """`text` for a plotly figure, which would read tags and hover templates in it."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("%{", "%&#123;")
