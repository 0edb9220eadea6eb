"""Where a run goes on: from its last checkpoint or, if that is damaged, from the newest intact one."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bifusion.config.run import load_config
from bifusion.errors import InputError
from bifusion.runs.checkpoint import (
    CONFIG,
    HEALTHY,
    LAST,
    PREVIOUS,
    check_intact,
    checkpoint_files,
    load_healthy_state,
    load_training_state,
    remove_unlinked,
)
from bifusion.runs.healthy import HealthyState
from bifusion.storage.files import flush
from bifusion.storage.folders import check_links, switch_link, tidy

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """An intact checkpoint."""

    checkpoint: Path
    state: dict[str, Any]
    """Its training state."""
    damaged: dict[Path, str]
    """What is wrong with the checkpoints that would have come first."""
    healthy: HealthyState | None = None
    """What a rollback goes back to; None: the checkpoint's own state."""
    healthy_lost: bool = False
    """It had another healthy state, whose file is damaged."""


def find_resume_point(checkpoints: Path) -> ResumePoint | None:
    """The checkpoint to go on from; None where none was ever saved. Changes nothing on disk.

    First comes "last", then the others from the newest to the oldest; last of all those that lack
    nothing but their healthy state, a file that several share. Raises InputError, saying what is wrong
    with each, where there are some and all are damaged.
    """
    damaged: dict[Path, str] = {}
    for folder in _candidates(checkpoints):
        try:
            return _read(folder, damaged)
        except (InputError, OSError) as error:
            damaged[folder] = str(error)
    for folder in damaged:
        with suppress(InputError, OSError):
            return _read(folder, damaged, healthy_lost=True)
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
    InputError where it cannot hold the links to checkpoints that are to be saved.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    check_links(checkpoints)
    for path in tidy(checkpoints, checkpoint_files):
        _logger.warning("%s: left by a process that was killed; taken up", path)
    if point is None:
        return
    for problem in point.damaged.values():
        _logger.warning("DAMAGED CHECKPOINT %s", problem)
    if point.healthy_lost:
        _logger.warning(
            "Going on from %s all the same: a rollback would go back to its own state, as the healthy "
            "one is lost",
            point.checkpoint,
        )
    elif point.damaged:
        _logger.warning(
            "Going on from %s, saved after %g epochs; what came after it is trained again",
            point.checkpoint,
            point.state["time"],
        )
    last = checkpoints / LAST
    if last.resolve() != point.checkpoint:
        switch_link(last, point.checkpoint.name, checkpoint_files)
        flush(checkpoints)
    remove_unlinked(checkpoints, spared=point.damaged)


def _read(folder: Path, damaged: dict[Path, str], *, healthy_lost: bool = False) -> ResumePoint:
    """The states of a checkpoint all of which is intact, but for its healthy state if that is `lost`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, though a link points at it")
    check_intact(folder, but=[HEALTHY] if healthy_lost else [])
    load_config(folder / CONFIG)
    state, healthy = load_training_state(folder), None
    if not healthy_lost and (folder / HEALTHY).exists():
        healthy = HealthyState(**load_healthy_state(folder))
    return ResumePoint(folder, state, damaged, healthy, healthy_lost)


def _candidates(checkpoints: Path) -> list[Path]:
    """Checkpoint folders, the preferred one first; links resolved, none twice."""
    steps = sorted(checkpoints.glob("step-*"), key=lambda path: path.name, reverse=True)
    steps = [path for path in steps if checkpoint_files(path)]  # not what a user left there
    # A copy of a run may have folders where the run had links.
    links = [checkpoints / name for name in (LAST, PREVIOUS, "best")]
    first = [path.resolve() for path in links[:1] if path.is_symlink() or path.is_dir()]
    copied = [path.resolve() for path in links[1:] if path.is_dir()]
    return list(dict.fromkeys([*first, *(path.resolve() for path in steps), *copied]))
