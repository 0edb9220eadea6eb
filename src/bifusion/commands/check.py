"""The command that checks scene folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console
from rich.table import Table

from bifusion.commands import parsing
from bifusion.commands.help import Help
from bifusion.untrusted.names import shown
from bifusion.untrusted.screen import Screen
from bifusion.wording import plural

if TYPE_CHECKING:
    from bifusion.datasets.check import DataReport, Finding, SceneReport


@dataclass
class Check:
    """All scenes, views and labels of a data set: a table of what is wrong, by scene. Exit status 1 if
    there is an error; warnings are of what may be right, but seldom is."""

    data: tyro.conf.Positional[Path]
    """Data set (with train/ and val/), one split, or one scene folder."""
    json: Path | None = None
    """File to write the findings to as well."""
    label_set: str | None = None
    """Built-in label set of segment.npy, where the data set has no labels.json."""
    workers: int | None = None
    """Processes; 0: one, this one. Left out: one a processor, at most 8."""


def check(args: list[str]) -> int:
    """Check scene folders: everything that is wrong with a data set, in one table."""
    wanted = parsing.parse(Check, args, "check", Help("check data/scannet"))

    from bifusion.datasets.check import check_data
    from bifusion.errors import InputError
    from bifusion.studies.training_runs.progress import progress_bar

    if wanted.workers is not None and wanted.workers < 0:
        raise InputError(f"--workers: found {wanted.workers}; expected 0 or more processes")
    console = Screen()
    with progress_bar("scenes", Screen(stderr=True)) as progress:
        report = check_data(
            wanted.data, label_set=wanted.label_set, workers=wanted.workers, progress=progress
        )
    print_report(report, console)
    if wanted.json is not None:
        _write_json(wanted.json, report)
    return 1 if report.count("error") else 0


def print_report(report: "DataReport", console: Console) -> None:
    """A table of the scenes that have findings, and a line of what there was."""
    table = Table("scene", "", "what is wrong", show_lines=True)
    table.columns[2].overflow = "fold"
    _add_rows(table, str(report.data), report.findings)
    for scene in report.scenes:
        _add_rows(table, _name(scene), scene.findings)
    if table.row_count:
        console.print(table, markup=False)
    wrong = sum(bool(scene.findings) for scene in report.scenes)
    console.print(
        f"{plural(len(report.scenes), 'scene')}, "
        f"{plural(sum(scene.views for scene in report.scenes), 'view')}: "
        f"{plural(report.count('error'), 'error')}, {plural(report.count('warning'), 'warning')} in "
        f"{plural(wrong, 'scene')}",
        highlight=False,
    )


def _add_rows(table: Table, name: str, findings: "list[Finding]") -> None:
    from rich.text import Text

    for place, finding in enumerate(sorted(findings, key=lambda one: one.severity)):
        style = "red" if finding.severity == "error" else "yellow"
        table.add_row(  # escaped before columns are as wide as what is in them
            Text("" if place else shown(name)),
            Text(finding.severity, style=style),
            Text(shown(finding.message)),
        )


def _name(scene: "SceneReport") -> str:
    return f"{scene.split}/{scene.name}"


def _write_json(path: Path, report: "DataReport") -> None:
    import json

    from bifusion.storage.files import write_text

    write_text(path, json.dumps(_plain(report), indent=2, ensure_ascii=False) + "\n")


def _plain(report: "DataReport") -> dict[str, Any]:
    """The report in JSON's types."""

    def plain(findings: "list[Finding]") -> list[dict[str, str]]:
        return [{"severity": one.severity, "message": one.message} for one in findings]

    return {
        "data": str(report.data),
        "errors": report.count("error"),
        "warnings": report.count("warning"),
        "findings": plain(report.findings),
        "scenes": [
            {
                "split": scene.split,
                "name": scene.name,
                "folder": str(scene.folder),
                "points": scene.points,
                "views": scene.views,
                "findings": plain(scene.findings),
            }
            for scene in report.scenes
        ],
    }
