"""The runs of a grid as their folders tell them, again and again while they train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from bifusion.runs.run_folder import OVER
from bifusion.studies.figures.run import Run, load_run
from bifusion.studies.grids.plan import GridPlan

RunState = Literal["completed", "guard_stopped", "running", "not started", "crashed"]


class ToldRun(Protocol):
    """What every study keeps of a run."""

    @property
    def state(self) -> RunState:
        """As in status.json; "crashed" or "not started" where there is no result."""
        ...

    @property
    def run(self) -> Run | None:
        """Without its records; None before it has begun."""
        ...


Told = TypeVar("Told", bound=ToldRun)


def load_begun(folder: Path) -> Run | None:
    """The run in `folder`; None where none has begun. InputError for a damaged folder."""
    return load_run(folder) if (folder / "config.json").exists() else None


def grid_state(run: Run | None, crashed: bool) -> RunState:
    """How a run stands: it has a result once it is over and was evaluated."""
    if run is not None and run.state in OVER and run.evaluation is not None:
        return run.state
    if crashed:
        return "crashed"
    return "not started" if run is None else "running"


def without_records(run: Run) -> Run:
    """What may stay in memory for every run of a grid."""
    return replace(run, steps=[], epoch_records=[], evaluation=None)


@dataclass
class Measured(Generic[Told]):
    """Runs with a result, which need not be read again while the others train."""

    over: dict[Path, Told] = field(default_factory=dict)

    def of(self, plan: GridPlan, read: Callable[[Any, Path, bool], Told]) -> dict[Any, Told]:
        """Place in the grid → its run, which `read` makes of the place, the folder and whether it
        crashed; no folder is read twice."""
        told = dict(self.over)
        for place, folder in plan.folders.items():
            if folder not in told:
                told[folder] = read(place, folder, folder.name in plan.crashed)
                if told[folder].state in OVER:
                    self.over[folder] = told[folder]
        return {place: told[folder] for place, folder in plan.folders.items()}
