"""What all runs of a study share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bifusion.storage.json_schema import Count
from bifusion.studies.figures.run import Run


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    epochs: Count
    """Length."""
    train_scenes: Count
    """Training scenes."""
    val_scenes: Count
    """Validation scenes."""
    label_set: str
    """Label set."""
    tower: str | None
    """Where the image tower's weights come from."""


def setting_of(runs: Sequence[Run]) -> Setting | None:
    """Scenes, length and image tower that all runs share; None before the first started."""
    if not runs:
        return None
    towers = [run.tower for run in runs if run.tower]
    return Setting(
        epochs=runs[0].epochs,
        train_scenes=len(runs[0].train_scenes),
        val_scenes=len(runs[0].val_scenes),
        label_set=runs[0].label_set,
        tower=towers[0] if towers else None,
    )
