"""What a study over a grid of settings is asked for: arms made of a staged recipe, seeds, the grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bifusion.config.run import Config
from bifusion.errors import InputError
from bifusion.recipes import get_recipe
from bifusion.spelling import did_you_mean
from bifusion.studies.figures.arms import ROLES
from bifusion.studies.training_runs.plan import PlannedRun, plan_runs


@dataclass
class GridRequest:
    """What a study over a grid was asked for; each has a base and a folder of its own."""

    data: Path
    base: str
    """The staged recipe that arms are made of."""
    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[str, ...] = ()
    """Those to train; none named: all."""
    grid: tuple[str, ...] = ()
    """Coordinates narrowed (or changed), as "lr=1,5"."""
    epochs: int | None = None
    tower_weights: Path | None = None
    jobs: int = 0
    accept_changes: bool = False
    """Scenes and versions may be others than when a run was begun."""

    def usual(self, recipe: str, seed: int) -> Config:
        """The recipe with this seed at its own settings, on the data and for the length asked for."""
        (run,) = plan_runs(
            [recipe],
            [seed],
            self.data,
            self.out,
            tower_weights=self.tower_weights,
            epochs=self.epochs,
        )
        return run.config

    def planned(self, config: Config, point: str) -> PlannedRun:
        """The run of a configuration at the point of the grid that is so named."""
        return PlannedRun(config, self.out / f"{config.name}-{point}-seed{config.seed}")


def check_staged(base: str, example: str) -> None:
    """InputError if `base` is no staged BiFusion."""
    role = get_recipe(base).arm
    if role != "staged":
        raise InputError(
            f"--base {base} is {ROLES.get(role, role)}; expected a staged recipe, such as {example}: "
            "the other arms are made of it"
        )


def keys_asked_for(names: Mapping[str, str], asked: Collection[str], option: str) -> set[str]:
    """Keys of the arms asked for, none named: of all. `names`: what an arm may be called → its key.

    InputError, naming `option`, for another.
    """
    for name in asked:
        if name not in names:
            raise InputError(
                f"{option}: {name!r} is no arm of it{did_you_mean(name, list(names))}; they are "
                f"{', '.join(dict.fromkeys(names.values()))}"
            )
    return {names[name] for name in asked or names}


def grid_values(item: str, coordinates: Collection[str], example: str) -> tuple[str, tuple[str, ...]]:
    """ "lr=1,5" as ("lr", ("1", "5")); InputError for another coordinate, no value, or one twice."""
    name, _, values = item.partition("=")
    told = tuple(value for value in values.split(",") if value)
    if name not in coordinates or not told or len(set(told)) < len(told):
        raise InputError(
            f"--grid {item}: expected COORDINATE=VALUE[,VALUE] with values that differ and one of the "
            f"coordinates {', '.join(coordinates)}, such as --grid {example}"
        )
    return name, told


def factor(coordinate: str, text: str) -> float:
    """A factor of --grid; InputError unless it is a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"--grid {coordinate}={text}: expected a factor above 0")
    return value
