"""The comparison as a table in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bifusion.studies.page.text import NONE, duration, millions, number, signed

STYLES = {
    "pass": "bold green",
    "indicative pass": "green",
    "fail": "bold red",
    "indicative fail": "red",
    "refused": "yellow",
    "not judged": "dim",
}
FIGURES = {"miou": "mIoU", "ap": "AP", "ap50": "AP50", "pq": "PQ", "fusion_2d_ratio": "gate"}
CRITERIA = ("stability", "performance", "fusion")
DOSE_PARTS = {
    "all": "gain",
    "seen": "seen",
    "unseen": "not seen",
    "texture": "texture",
    "other": "other",
}
ROOM_FIGURES = ("probe:\nvoxels", "probe:\nimages", "superpoint\noracle", "points\nseen")


def print_table(report: dict[str, Any], console: Console) -> None:
    """Arms × figures, then arms × the three verdicts, from the content of report.json."""
    console.print(_results(report))
    console.print(_verdicts(report))
    if report["scenes_refused"]:
        console.print(f"[yellow]Performance refused[/yellow]: {escape(report['scenes_refused'])}")
    if report["crashed"]:
        console.print(f"[red]Crashed[/red], without a result: {escape(', '.join(report['crashed']))}.")
    if report["synthetic"]:
        console.print("All figures are of generated (synthetic) rooms.")
    if not report["complete"]:
        console.print("Partial: runs are still training, or ended without an evaluation.")


def _results(report: dict[str, Any]) -> Table:
    table = Table(
        title=escape(report["title"]), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("model")
    for name in (*FIGURES.values(), "non-finite\n(skipped,\nrollbacks)", "weights", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in report["arms"]:
        figures = [_mean_spread(arm["figures"][key]) for key in FIGURES]
        label = escape(arm["label"]) + (" [dim](control)[/dim]" if arm["control"] else "")
        label += "" if arm["final"] else f" [dim]({_progress(arm)})[/dim]"
        table.add_row(
            label,
            *figures,
            f"{arm['raw_nonfinite']} ({arm['skipped']}, {arm['rollbacks']})",
            millions(arm["parameters"]),
            duration(_nan(arm["seconds"]["mean"])),
        )
    oracle = (report["audit"] or {}).get("superpoint_oracle")
    if oracle:
        table.add_row(
            "superpoint oracle", *(number(_nan(oracle.get(key))) for key in FIGURES), style="dim"
        )
    return table


def _progress(arm: dict[str, Any]) -> str:
    if "guard_stopped" in arm["states"]:
        return f"stopped by its guard in epoch {arm['epochs_done']}"
    return f"epoch {arm['epochs_done']} of {arm['epochs']}"


def _verdicts(report: dict[str, Any]) -> Table:
    table = Table(title="Verdicts", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model")
    for criterion in CRITERIA:
        table.add_column(criterion)
    for arm in report["arms"]:
        found = {v["criterion"]: v["outcome"] for v in report["verdicts"] if v["arm"] == arm["key"]}
        outcomes = [found.get(criterion, NONE) for criterion in CRITERIA]
        table.add_row(escape(arm["label"]), *(f"[{STYLES.get(o, 'dim')}]{o}[/]" for o in outcomes))
    return table


def _mean_spread(sample: dict[str, Any]) -> str:
    text = number(_nan(sample["mean"]))
    return text if sample["spread"] is None else f"{text}\n± {number(sample['spread'])}"


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def print_dose(dose: dict[str, Any], console: Console) -> None:
    """Values × gain, with the probe and the oracle of each data set, from the content of dose.json."""
    labels = {arm["key"]: arm["label"] for arm in dose["arms"]}
    gaining = [key for key in labels if key != dose["reference"]]
    for key in gaining:
        table = _dose_table(dose, labels[key], ("mIoU", "without\nviews", *DOSE_PARTS.values()))
        for level in dose["levels"]:
            table.add_row(*_dose_row(level, key, dose["reference"]))
        console.print(table)
    rooms = _dose_table(dose, "The rooms", ROOM_FIGURES)
    for level in dose["levels"]:
        rooms.add_row(*_rooms_row(level))
    console.print(rooms)
    zero = dose["knob"]["zero_at"]
    if any(level["expected_zero"] for level in dose["levels"]):
        console.print(f"At {dose['knob']['name']} {zero:g} the expected gain is zero.")
    console.print("All figures are of generated (synthetic) rooms.")


def _dose_table(dose: dict[str, Any], title: str, heads: Sequence[str]) -> Table:
    """One row a value of the knob, whose name is broken to keep the table narrow."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (dose["knob"]["name"].replace("_", "\n"), *heads):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _dose_row(level: dict[str, Any], key: str, reference: str | None) -> list[str]:
    mine, theirs = level["arms"].get(key), level["arms"].get(reference)
    gain = mine["gain"] if mine else None
    cells = [_mean_spread(entry["miou"]["all"]) if entry else NONE for entry in (mine, theirs)]
    cells += [_gain(gain[part]) if gain else NONE for part in DOSE_PARTS]
    return [f"{level['value']:g}", *cells]


def _rooms_row(level: dict[str, Any]) -> list[str]:
    audit = level["audit"] or {}
    probes = [(audit.get("probe") or {}).get(sense) for sense in ("voxels", "images")]
    cells = [number(probe["accuracy"], 2) if probe else NONE for probe in probes]
    cells += [number(_nan(audit.get(name)), 2) for name in ("oracle_miou", "seen_share")]
    return [f"{level['value']:g}", *cells]


def _gain(sample: dict[str, Any]) -> str:
    text = signed(_nan(sample["mean"]))
    return text if sample["spread"] is None else f"{text}\n± {number(sample['spread'])}"
