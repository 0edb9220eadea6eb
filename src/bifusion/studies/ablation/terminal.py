"""The ablation's findings as a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from bifusion.studies.ablation.plan import AblationArm
from bifusion.studies.ablation.report import AblationReport, ArmFinding, Cell
from bifusion.studies.figures.terminal import plain_table
from bifusion.studies.figures.text import NONE, number, signed
from bifusion.studies.grids.report import print_rest
from bifusion.wording import plural

STYLES = {
    "matters": "bold green",
    "harms": "bold red",
    "does not show": "dim",
    "too few pairs": "yellow",
    "refused": "yellow",
}
SHORT = {"does not show": "no sign", "too few pairs": "too few"}
SHORT_RIVALS = SHORT | {"matters": "worse", "harms": "better"}
"""Of a rival: how it is beside the staged recipe."""
SUMS = {"raw_nonfinite": "non-\nfinite", "spikes": "spikes", "unsteady": "alarms"}


def print_ablation(report: AblationReport, console: Console) -> None:
    """Arms × what the rule says, with sums over the grid."""
    table = plain_table(report.title, "without", ())
    for name in ("stable", "accu-\nrate"):
        table.add_column(name, no_wrap=True)
    for name in (*SUMS.values(), "stop-\nped", "mIoU", "−staged"):
        table.add_column(name, justify="right", no_wrap=True)
    table.columns[0].min_width = 13
    findings = {finding.arm: finding for finding in report.findings}
    for arm in report.arms:
        cells = _cells(report, arm)
        table.add_row(*_row(arm, cells, findings.get(arm.key)))
    console.print(table)
    console.print(
        f"Sums and means over {plural(len(report.points), 'point')} of the grid × "
        f"{plural(len(report.seeds), 'seed')}, by the rule on the page; “no sign”: it does not show. "
        "A rival is worse or better than the staged recipe."
    )
    left = report.not_run
    for what, names in (("points", left.points), ("arms", left.arms)):
        if names:
            console.print(f"[yellow]Not run[/yellow], {what}: {escape('; '.join(names))}.")
    print_rest(report, console)


def _cells(report: AblationReport, arm: AblationArm) -> list[Cell]:
    """The arm's runs, those that stand at several ranges once."""
    once = {p.key for p in report.points if p.range_2d == report.points[0].range_2d}
    mine = [cell for cell in report.cells if cell.arm == arm.key]
    return [cell for cell in mine if not cell.shared or cell.point in once]


def _row(arm: AblationArm, cells: list[Cell], finding: ArmFinding | None) -> list[str]:
    before = {"added": "(with) ", "staged": "(nothing) "}.get(arm.role, "")
    told = [NONE, NONE]
    if finding is not None:
        words = SHORT_RIVALS if arm.role == "rival" else SHORT
        outcomes = [finding.stability.outcome, finding.accuracy.outcome]
        told = [f"[{STYLES[outcome]}]{words.get(outcome, outcome)}[/]" for outcome in outcomes]
    sums = [
        f"{sum(sum(getattr(cell.figures, figure).by_seed.values()) for cell in cells):.0f}"
        for figure in SUMS
    ]
    states = [state for cell in cells for state in cell.states.values()]
    miou = [value for cell in cells for value in cell.figures.miou.by_seed.values()]
    mean = number(sum(miou) / len(miou)) if miou else NONE
    return [
        escape(before + arm.label),
        *told,
        *sums,
        str(states.count("guard_stopped")),
        mean,
        signed(finding.difference.mean) if finding else NONE,
    ]
