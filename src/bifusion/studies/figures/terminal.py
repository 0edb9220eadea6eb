"""Tables of figures in the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from bifusion.errors import listing
from bifusion.studies.figures.metrics import Sample
from bifusion.studies.figures.text import number

MOST_TOLD = 8
"""Runs or lines of one kind that a terminal tells; the report has all."""


def plain_table(
    title: str, first: str, figures: Sequence[str], *, first_is_number: bool = False
) -> Table:
    """An empty table: a column of names (or numbers), then columns of numbers."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    side = "right" if first_is_number else "left"
    table.add_column(first, justify=side, no_wrap=first_is_number, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def sample_lines(sample: Sample, show: Callable[[float], str] = number) -> str:
    """Mean and, below it, spread."""
    text = show(sample.mean)
    return text if math.isnan(sample.spread) else f"{text}\n± {number(sample.spread)}"


def some_of(names: Sequence[str]) -> str:
    """Names of runs, escaped; of hundreds the first, and where the others are."""
    return escape(listing(names, MOST_TOLD)) + " (the report names all)" * (len(names) > MOST_TOLD)
