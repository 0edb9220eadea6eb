"""Dose and response as tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bifusion.studies.dose.report import DoseReport, LevelEntry, stopped_lines
from bifusion.studies.figures.terminal import MOST_TOLD, plain_table, sample_lines, some_of
from bifusion.studies.figures.text import NONE, number, signed
from bifusion.wording import plural

PARTS = {"all": "gain", "seen": "seen", "unseen": "not\nseen", "texture": "texture", "other": "other"}
ROOM_FIGURES = ("probe:\nvoxels", "probe:\nimages", "superpoint\noracle", "points\nseen")


def print_dose(dose: DoseReport, console: Console) -> None:
    """Values × gain of each model, then values × the probe and the oracle of each data set."""
    for arm in dose.gaining:
        table = _table(dose, arm.label, ("mIoU", "without\nviews", *PARTS.values()))
        for level in dose.levels:
            table.add_row(*_gain_row(level, arm.key, dose.reference))
        console.print(table)
    rooms = _table(dose, "The rooms", ROOM_FIGURES)
    for level in dose.levels:
        rooms.add_row(*_rooms_row(level))
    console.print(rooms)
    if any(level.expected_zero for level in dose.levels):
        console.print(f"At {dose.knob.name} {dose.knob.zero_at:g} the expected gain is zero.")
    if dose.crashed:
        console.print(f"[red]Crashed[/red], without a result: {some_of(dose.crashed)}.")
    if any(arm.pairs for level in dose.levels for arm in level.arms.values()):
        console.print("Under a gain: of how many pairs of runs it is, where not of all.")
    stopped = stopped_lines(dose)
    if more := len(stopped[MOST_TOLD:]):
        stopped[MOST_TOLD:] = [f"… and {more} more of these lines, all in the report."]
    for line in (*stopped, *dose.cautions):
        console.print(escape(line))
    console.print("All figures are of generated (synthetic) rooms.")
    if dose.waiting:
        console.print(f"Partial: {plural(len(dose.waiting), 'run')} still to be trained or evaluated.")


def _table(dose: DoseReport, title: str, figures: Sequence[str]) -> Table:
    """One row a value of the knob, whose name is broken to keep the table narrow."""
    return plain_table(title, dose.knob.name.replace("_", "\n"), figures, first_is_number=True)


def _gain_row(level: LevelEntry, key: str, reference: str | None) -> list[str]:
    mine, theirs = level.arms.get(key), level.arms.get(reference or "")
    gain = mine.gain if mine else None
    cells = [sample_lines(entry.miou.all) if entry else NONE for entry in (mine, theirs)]
    cells += [sample_lines(getattr(gain, part), signed) if gain else NONE for part in PARTS]
    if mine and mine.pairs:
        cells[2] += "\n" + mine.pairs.removesuffix(" pairs")  # a line below says of what
    return [f"{level.value:g}", *cells]


def _rooms_row(level: LevelEntry) -> list[str]:
    audit = level.audit
    if audit is None:
        return [f"{level.value:g}", *[NONE] * len(ROOM_FIGURES)]
    probes = (audit.probe.voxels, audit.probe.images)
    accuracies = [probe.accuracy if probe else math.nan for probe in probes]
    figures = (*accuracies, audit.oracle_miou, audit.seen_share)
    return [f"{level.value:g}", *(number(figure, 2) for figure in figures)]
