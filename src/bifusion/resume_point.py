"""Where a run goes on: from its last checkpoint or, if that is damaged, from the newest intact one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bifusion.checkpoint import (
    CONFIG,
    LAST,
    PREVIOUS,
    check_intact,
    load_training_state,
    remove_unlinked,
)
from bifusion.config import load_config
from bifusion.files import flush, remove_stale, switch_link
from bifusion.types import InputError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """An intact checkpoint."""

    checkpoint: Path
    state: dict[str, Any]
    """Its training state."""
    damaged: dict[Path, str]
    """What is wrong with the checkpoints that would have come first."""


def find_resume_point(checkpoints: Path) -> ResumePoint | None:
    """The checkpoint to go on from; None where none was ever saved. Changes nothing on disk.

    First comes "last", then the others from the newest to the oldest. Raises InputError, saying what
    is wrong with each, where there are some and all are damaged.
    """
    damaged: dict[Path, str] = {}
    for folder in _candidates(checkpoints):
        try:
            return ResumePoint(folder, _read(folder), damaged)
        except (InputError, OSError) as error:
            damaged[folder] = str(error)
    if damaged:
        raise InputError(
            f"{checkpoints}: no checkpoint can be resumed:\n  "
            + "\n  ".join(damaged.values())
            + "\nrestore one of them from a copy, or train into another folder"
        )
    return None


def settle(checkpoints: Path, point: ResumePoint | None) -> None:
    """Makes `point` the last checkpoint, sweeps up what a killed process left, and says what it found.

    Damaged checkpoints stay until the next one is saved. The caller alone writes to the folder.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    for path in remove_stale(checkpoints):
        _logger.warning("%s: half-written by a process that was killed; removed", path)
    if point is None:
        return
    for problem in point.damaged.values():
        _logger.warning("DAMAGED CHECKPOINT %s", problem)
    if point.damaged:
        _logger.warning(
            "Going on from %s, saved after %g epochs; what came after it is trained again",
            point.checkpoint,
            point.state["time"],
        )
    last = checkpoints / LAST
    if last.resolve() != point.checkpoint:
        switch_link(last, point.checkpoint.name)
        flush(checkpoints)
    remove_unlinked(checkpoints, spared=point.damaged)


def _read(folder: Path) -> dict[str, Any]:
    """The training state of a checkpoint all of which is intact."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, though a link points at it")
    check_intact(folder)
    load_config(folder / CONFIG)
    return load_training_state(folder)


def _candidates(checkpoints: Path) -> list[Path]:
    """Checkpoint folders, the preferred one first; links resolved, none twice."""
    steps = sorted(checkpoints.glob("step-*"), key=lambda path: path.name, reverse=True)
    # A copy of a run may have folders where the run had links.
    links = [checkpoints / name for name in (LAST, PREVIOUS, "best")]
    first = [path.resolve() for path in links[:1] if path.is_symlink() or path.is_dir()]
    copied = [path.resolve() for path in links[1:] if path.is_dir()]
    return list(dict.fromkeys([*first, *(path.resolve() for path in steps), *copied]))
