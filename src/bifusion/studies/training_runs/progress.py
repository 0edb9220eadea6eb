"""Progress on screen: a bar, and a table of runs that train in other processes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.table import Table


@dataclass
class _Row:
    folder: Path
    epochs: int | None = None
    last_epoch: dict = field(default_factory=dict)
    last_miou: float | None = None
    file: tuple[int, int] = (0, 0)
    """Number and size of epochs.jsonl when it was last read."""
    lines: list[bytes] = field(default_factory=list)
    """What was complete in it."""


class RunTable:
    """Live table in a terminal; elsewhere one line an epoch. Use as a context manager."""

    def __init__(self, folders: list[Path], console: Console):
        self._rows = [_Row(folder) for folder in folders]
        self._console = console
        self._live = Live(console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> RunTable:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self._live:
            self._live.__exit__(*error)

    def update(self, crashed: Sequence[Path] = ()) -> None:
        """Reads what the runs have written since the last call and shows it; those that `crashed`, of
        which their end tells more, are shown as they stood."""
        for row in self._rows:
            for record in _new_epochs(row):
                row.last_epoch = record
                if record["val"]:
                    row.last_miou = record["val"]["miou"]
                if not self._live:
                    self._console.print(_line(row), highlight=False, markup=False, soft_wrap=True)
        if self._live:
            self._live.update(self._table())

    def _table(self) -> Table:
        table = Table("run", "epoch", "stage", "loss", "val mIoU", "non-finite", "seconds/epoch")
        for row in self._rows:
            record = row.last_epoch
            if not record:
                table.add_row(row.folder.name, "–", *[""] * 5)
                continue
            table.add_row(
                row.folder.name,
                f"{record['epoch'] + 1}/{row.epochs}",
                record["stage"],
                _number(record["train"].get("total")),
                _number(row.last_miou),
                str(record["raw_nonfinite"]),
                _number(record["seconds"], 1),
            )
        return table


class RunCount:
    """One line a run that has ended, for hundreds of them; use as a context manager."""

    def __init__(self, folders: list[Path], console: Console, clock: Callable[[], float]):
        self._waiting, self._count, self._console, self._clock = (
            list(folders),
            len(folders),
            console,
            clock,
        )

    def __enter__(self) -> RunCount:
        self._waiting = [folder for folder in self._waiting if not _evaluated(folder)]
        self._began, self._to_do = self._clock(), len(self._waiting)
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, crashed: Sequence[Path] = ()) -> None:
        """Shows the runs that have ended since the last call, those that `crashed` too, and how long the
        others may take."""
        for folder in [folder for folder in self._waiting if _evaluated(folder) or folder in crashed]:
            self._waiting.remove(folder)
            spent, left = self._clock() - self._began, len(self._waiting)
            minutes = math.ceil(spent / (self._to_do - left) * left / 60)
            self._console.print(
                f"{self._count - left}/{self._count} {folder.name}: {_ending(folder)}; "
                f"about {minutes} min left",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


def _evaluated(folder: Path) -> bool:
    return (folder / "evaluation.json").exists()


def _ending(folder: Path) -> str:
    """How a run ended; one without an evaluation crashed."""
    if not _evaluated(folder):
        return "crashed"
    status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    return f"{status['state'].replace('_', ' ')}, {status['raw_nonfinite']} non-finite"


def _new_epochs(row: _Row) -> list[dict]:
    """Complete lines of epochs.jsonl that were not there at the last call. A run that goes on from
    before its end, or from the beginning, has dropped some of them."""
    config = row.folder / "config.json"
    if row.epochs is None and config.exists():
        row.epochs = json.loads(config.read_text(encoding="utf-8"))["epochs"]
    path = row.folder / "epochs.jsonl"
    if not path.exists():
        return []
    stat = path.stat()
    if (stat.st_ino, stat.st_size) == row.file:
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    pairs = zip(lines, row.lines, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    row.file, row.lines = (stat.st_ino, stat.st_size), lines
    return [json.loads(line) for line in lines[same:]]


def _line(row: _Row) -> str:
    record = row.last_epoch
    return (
        f"{row.folder.name}: epoch {record['epoch'] + 1}/{row.epochs} ({record['stage']}), "
        f"loss {_number(record['train'].get('total'))}, val mIoU {_number(row.last_miou)}, "
        f"non-finite {record['raw_nonfinite']}, {_number(record['seconds'], 1)} s"
    )


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


@contextmanager
def progress_bar(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yields `progress(done, total)` that draws a bar in a terminal and a few lines elsewhere."""
    if console.is_terminal:
        with Progress(console=console) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    def lines(done: int, total: int) -> None:
        if done == total or done % max(1, total // 4) == 0:
            console.print(f"{what}: {done}/{total}", highlight=False)

    yield lines
