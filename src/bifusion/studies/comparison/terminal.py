"""The comparison as tables in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bifusion.studies.comparison.report import ComparisonReport
from bifusion.studies.comparison.standing import standing
from bifusion.studies.figures.generated import generated_line
from bifusion.studies.figures.metrics import value_at
from bifusion.studies.figures.terminal import plain_table, sample_lines, some_of
from bifusion.studies.figures.text import NONE, duration, millions, number

STYLES = {
    "pass": "bold green",
    "indicative pass": "green",
    "fail": "bold red",
    "indicative fail": "red",
    "refused": "yellow",
    "not judged": "dim",
}
WIDE = 100
"""Columns of a terminal from which on all figures have room beside the models' names."""
LEFT_OUT = ("ap50",)
"""Of a narrower one, with the parameters: the report has them."""
FIGURES = {"miou": "mIoU", "ap": "AP", "ap50": "AP50", "pq": "PQ", "fusion_2d_ratio": "gate"}
CRITERIA = ("stability", "performance", "fusion")


def print_table(report: ComparisonReport, console: Console) -> None:
    """Arms × figures, then arms × the three verdicts."""
    console.print(_results(report, wide=console.width >= WIDE))
    console.print(_verdicts(report))
    if report.scenes_refused:
        console.print(f"[yellow]Performance refused[/yellow]: {escape(report.scenes_refused)}")
    if report.crashed:
        console.print(f"[red]Crashed[/red], without a result: {some_of(report.crashed)}.")
    for caution in report.cautions:
        console.print(escape(caution))
    if line := generated_line(report.synthetic, report.partly_synthetic):
        console.print(line)
    if report.goes_on:
        console.print("Partial: runs are still training, or ended without an evaluation.")


def _results(report: ComparisonReport, *, wide: bool) -> Table:
    figures = [key for key in FIGURES if wide or key not in LEFT_OUT]
    counts = ("non-finite\n(skipped,\nrollbacks)", *(["weights"] if wide else []), "time")
    table = plain_table(report.title, "model", (*(FIGURES[key] for key in figures), *counts))
    between = " " if wide else "\n"  # or names are broken to make room
    alike = len({len(arm.seeds) for arm in report.arms}) == 1
    for arm in report.arms:
        label = escape(arm.label) + (" [dim](control)[/dim]" if arm.control else "")
        table.add_row(
            label if arm.ended and alike else f"{label} [dim]({standing(arm)})[/dim]",
            *(sample_lines(getattr(arm.figures, key)) for key in figures),
            f"{arm.raw_nonfinite}{between}({arm.skipped}, {arm.rollbacks})",
            *([millions(arm.parameters)] if wide else []),
            duration(arm.seconds.mean),
        )
    oracle = (report.audit or {}).get("superpoint_oracle")
    if oracle:
        reached = (number(value_at(oracle, key)) for key in figures)
        table.add_row("superpoint oracle", *reached, style="dim")
    return table


def _verdicts(report: ComparisonReport) -> Table:
    table = plain_table("Verdicts", "model", ())
    for criterion in CRITERIA:
        table.add_column(criterion)
    for arm in report.arms:
        found = {v.criterion: v.outcome for v in report.verdicts if v.arm == arm.key}
        outcomes = [found.get(criterion, NONE) for criterion in CRITERIA]
        table.add_row(escape(arm.label), *(f"[{STYLES.get(o, 'dim')}]{o}[/]" for o in outcomes))
    return table
