"""The laboratory's results as a table, as figures, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from laboratory.judge import Result

COLUMNS = ("detected", "module", "scenes", "survived", "untouched", "verdict")
HEADINGS = ("detected", "right place", "right scenes", "survived", "untouched", "right cause")


def print_table(results: list[Result], console: Console, *, details: bool = False) -> None:
    """One line a fault; `details` adds what the run said about each, else only where it was wrong."""
    table = Table("seed", "fault", "model", "label", *HEADINGS, "as expected", box=None, pad_edge=False)
    for result in results:
        answers = [_mark(getattr(result, column)) for column in COLUMNS]
        model = result.recipe.removesuffix("_small")
        fits = "yes" if result.as_expected else "[bold red]NO[/]"
        table.add_row(str(result.seed), result.name, model, result.label, *answers, fits)
    console.print(table)
    for result in results:
        if details or not result.as_expected:
            console.print(f"{result.seed} {result.name}: {result.said} ({result.why})", markup=False)


def _mark(answer: bool | None) -> str:
    return {True: "yes", False: "no", None: "–"}[answer]


def figures(results: list[Result]) -> dict[str, Any]:
    """What the laboratory is to show, as counts (good, all)."""
    alarms = [r for r in results if r.label == "must-alarm"]
    seen = [r for r in alarms if r.detected]
    return {
        "faults": len(results),
        "as_expected": _share(r.as_expected for r in results),
        "must_alarm_detected": _share(r.detected for r in alarms),
        "must_reject_refused": _share(r.detected for r in results if r.label == "must-reject"),
        "must_work_quiet": _share(r.as_expected for r in results if r.label == "must-work"),
        "right_first_module": _share(bool(r.module) for r in seen if r.names_module),
        "right_place": _share(bool(r.module) for r in seen if r.module is not None),
        "right_scenes": _share(bool(r.scenes) for r in results if r.scenes is not None),
        "survived": _share(bool(r.survived) for r in results if r.survived is not None),
        "untouched": _share(bool(r.untouched) for r in results if r.untouched is not None),
    }


def _share(answers: Iterable[bool]) -> list[int]:
    known = list(answers)
    return [sum(known), len(known)]


def summary(results: list[Result]) -> str:
    """The figures in one line."""
    parts = []
    for name, value in figures(results).items():
        if isinstance(value, list):
            good, total = value
            share = f" ({100 * good / total:.1f} %)" if total else ""
            value = f"{good} of {total}{share}"
        parts.append(f"{name.replace('_', ' ')} {value}")
    return "; ".join(parts)


def to_json(results: list[Result]) -> dict[str, Any]:
    """Everything, for machines."""
    rows = [{**asdict(result), "as_expected": result.as_expected} for result in results]
    return {"figures": figures(results), "faults": rows}
