"""The files a run leaves (CONVENTIONS.md, "A run on disk"), written so that a crash breaks none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bifusion.config import old_names
from bifusion.config.plain import from_plain
from bifusion.errors import InputError
from bifusion.storage.files import append_line, flush, remove_stale, write_text
from bifusion.storage.json_files import to_json
from bifusion.untrusted.files import read_bytes
from bifusion.untrusted.json_text import parse_json

State = Literal["running", "completed", "guard_stopped", "interrupted"]
OVER = ("completed", "guard_stopped")
"""States of a run that came to its end, or that its guard ended."""
GUARD_STOPPED_EXIT = 4
"""Exit status of a process whose run its guard stopped: a result, not a crash."""
RESTORE = "restore the file or start a new run"
MOST_BYTES = 16 << 30
"""Of records; a million steps take one or two."""


@dataclass(frozen=True)
class StageSpan:
    """A stage in config.json: epochs [first_epoch, end_epoch), counted from 0."""

    name: str
    first_epoch: int
    end_epoch: int


def is_of_before(evaluation: Mapping[str, Any], epochs_done: Any) -> bool:
    """Whether evaluation.json, as read, is of a checkpoint that the run went on from: of an epoch before
    the last of the `epochs_done` that ended. What says neither is taken as it is."""
    epoch = evaluation.get("epoch")
    return isinstance(epoch, int) and isinstance(epochs_done, int) and epoch < epochs_done - 1


@dataclass
class RunStatus:
    """Where a run stands; status.json."""

    state: State = "running"
    reason: str | None = None
    epochs_done: int = 0
    steps: int = 0
    """Optimiser steps attempted, skipped ones included."""
    raw_nonfinite: int = 0
    """Steps that met a NaN or an infinity, before the guard acted."""
    skipped: int = 0
    """Steps not taken because of any fault."""
    rollbacks: int = 0
    warnings: int = 0
    finite_epochs_in_a_row: int = 0
    """Longest row of epochs without a non-finite step."""
    seconds: float = 0.0
    summary: str | None = None
    """Of a run stopped by its guard: what, where, which scenes, the verdict, what to try."""

    @property
    def is_over(self) -> bool:
        """It came to its end, or its guard ended it."""
        return self.state in OVER


class RunFolder:
    """Paths and writers of one run folder."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.config = self.root / "config.json"
        self.steps = self.root / "steps.jsonl"
        self.epochs = self.root / "epochs.jsonl"
        self.status = self.root / "status.json"
        self.evaluation = self.root / "evaluation.json"
        self.checkpoints = self.root / "checkpoints"
        self.predictions = self.root / "predictions"
        self.tensorboard = self.root / "tensorboard"
        self.bundles = self.root / "bundles"

    def create(self) -> None:
        """Makes the folders, and sweeps up what a killed process has left half-written in them."""
        for folder in (self.root, self.checkpoints, self.tensorboard):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.root, self.predictions, self.bundles):
            remove_stale(folder)

    def append(self, path: Path, record: Mapping[str, Any]) -> None:
        """Adds one line to a .jsonl file, in one write."""
        append_line(path, json.dumps(to_json(record), allow_nan=False, ensure_ascii=False))

    def flush_records(self) -> None:
        """Forces the .jsonl files to disk; to be done before a checkpoint that comes after them."""
        for path in (self.steps, self.epochs):
            if path.exists():
                flush(path)

    def read_lines(self, path: Path) -> list[dict[str, Any]]:
        """Complete records of a .jsonl file; a last line that a crash cut short is left out."""
        return list(self._records(path))

    def _records(self, path: Path) -> Iterator[dict[str, Any]]:
        """One at a time: those of a long training fill a gigabyte."""
        if not path.exists():
            return
        content = read_bytes(path, most_bytes=MOST_BYTES, advice=RESTORE)
        whole = content.rpartition(b"\n")[0]  # a line cut short may end within a character
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
            where = f"{path}, line {number}"
            record = _parse(_decode(line, where), where)
            if "epoch" not in record:
                raise InputError(f'{where}: has no "epoch"; {RESTORE}')
            yield old_names.RECORD.updated(record)

    def keep_lines_before(self, path: Path, key: str, limit: int) -> None:
        """Drops records with record[key] >= limit: steps that a resumed run is going to repeat."""
        kept = (record for record in self._records(path) if record[key] < limit)
        write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))

    def read_status(self) -> RunStatus | None:
        """What status.json says; None where there is none."""
        if not self.status.exists():
            return None
        value = _read(self.status)
        return from_plain(RunStatus, value, str(self.status))

    @property
    def is_evaluated(self) -> bool:
        """By an evaluation of what it came to in the end, not of a checkpoint that it went on from."""
        status = self.read_status()
        done = status.epochs_done if status is not None else None
        return self.evaluation.is_file() and not is_of_before(_read(self.evaluation), done)

    def read_stages(self) -> list[StageSpan]:
        """The stages in config.json, in order."""
        if not self.config.is_file():
            raise InputError(f"{self.root} is no run folder: it has no config.json; {RESTORE}")
        stages = _read(self.config).get("stages")
        return from_plain(list[StageSpan], stages, f"{self.config}: stages")

    def read_scenes(self) -> dict[str, list[str]] | None:
        """Names of the scenes in "train" and "val", and "sources", in config.json; None where it does
        not say, as in a folder whose run has not begun."""
        if not self.config.is_file():
            return None
        described = _read(self.config)
        keys = {"train": "train_scenes", "val": "val_scenes", "sources": "sources"}
        if any(key not in described for key in keys.values()):
            return None
        return {
            name: from_plain(list[str], described[key], f"{self.config}: {key}")
            for name, key in keys.items()
        }


def _decode(content: bytes, path: Path | str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text ({error}); {RESTORE}") from error


def _read(path: Path) -> dict[str, Any]:
    return _parse(_decode(read_bytes(path, advice=RESTORE), path), str(path))


def _parse(text: str, where: str) -> dict[str, Any]:
    value = parse_json(text, where, advice=RESTORE)
    if not isinstance(value, dict):
        raise InputError(f"{where}: found {type(value).__name__}, expected a JSON object; {RESTORE}")
    return value
