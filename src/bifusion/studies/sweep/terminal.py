"""A sweep's curves as a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from bifusion.studies.figures.terminal import plain_table
from bifusion.studies.figures.text import mean_spread, number, significant
from bifusion.studies.grids.report import print_rest
from bifusion.studies.sweep.grid import PLAIN
from bifusion.studies.sweep.report import SweepReport


def print_sweep(report: SweepReport, console: Console) -> None:
    """One line a curve, then the findings."""
    arms = {arm.key: arm.label for arm in report.arms}
    conditions = {condition.key: condition.label for condition in report.conditions}
    figures = ("best\nmIoU", "at ×", "good\nrates", "relative\nsensitivity", "breaks\nat ×")
    table = plain_table(report.title, "arm", figures)
    for curve in report.curves:
        name = arms[curve.arm]
        if curve.condition != PLAIN.key:
            name += f", {conditions[curve.condition]}"
        table.add_row(
            escape(name),
            number(curve.good.best_miou),
            significant(curve.good.best, 2),
            significant(curve.good.span, 2),
            mean_spread(curve.relative_sensitivity, 2),
            "–" if curve.breaking is None else f"{curve.breaking.factor:g}",
        )
    console.print(table)
    for finding in report.findings:
        console.print(escape(finding), highlight=False)
    print_rest(report, console)
