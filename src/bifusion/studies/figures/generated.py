"""Whether figures are of generated rooms: all of them, some, or none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from bifusion.studies.figures.run import Run

SOME_GENERATED = " (some of them generated rooms)"
"""After a number of scenes, where that is so."""


class Generated(TypedDict):
    """Two fields of a report."""

    synthetic: bool
    """All scenes are generated rooms."""
    partly_synthetic: bool
    """Some of the scenes are generated rooms, others are not."""


def generated(runs: Iterable[Run], *, audited: bool = False) -> Generated:
    """By the sources that runs name for their scenes: a run that names none is taken for one of others.
    `audited`: the scenes come with a benchmark's audit, as generated rooms alone do."""
    sources = [source for run in runs for source in run.config.get("sources") or [""]]
    found = [audited or source.startswith("generated") for source in sources]
    synthetic = bool(found) and all(found)
    return {"synthetic": synthetic, "partly_synthetic": any(found) and not synthetic}


def generated_line(synthetic: bool, partly_synthetic: bool) -> str | None:
    """What a terminal says of it; None where no room is generated."""
    if synthetic:
        return "All figures are of generated (synthetic) rooms."
    return "Some figures, not all, are of generated (synthetic) rooms." if partly_synthetic else None
