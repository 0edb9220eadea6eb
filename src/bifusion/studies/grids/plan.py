"""What a study over a grid is to run, as far as all of them say it alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """What is to be run, and what is left out of the whole grid."""

    base: str
    """The staged recipe that arms are made of."""
    seeds: tuple[int, ...]
    folders: Mapping[Any, Path]
    """Place in the grid → run folder; one folder may stand at several places."""
    arms_left_out: tuple[str, ...] = ()
    """Recipes."""
    crashed: tuple[str, ...] = ()
    """Names of run folders without a result."""
