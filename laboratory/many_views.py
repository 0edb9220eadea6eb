"""One real room, seen by many views: `python -m laboratory.many_views --scene data/scannet/train/NAME`.

The views of one scan are dealt out in turn: half are trained on, the others appear in evaluation alone,
where points and classes are those that were learned. So what is told is what a model that knows a room
makes of new images of it, of few and of many, and of images with wrong poses. It is one room by heart:
nothing follows about others.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from bifusion.config.run import Config
from bifusion.data.open_scene import open_folder
from bifusion.data.scene_folder import write_scene
from bifusion.errors import InputError
from bifusion.inference.evaluate import evaluate_run
from bifusion.labels.sets import SCANNET20
from bifusion.recipes.bifusion import bifusion_model
from bifusion.rng import numpy_rng
from bifusion.runs.run_folder import RunFolder
from bifusion.studies.training_runs.plan import PlannedRun, check_runs, default_jobs, plan_runs
from bifusion.studies.training_runs.train import train_runs
from bifusion.types import View
from laboratory.compared import spread

SOURCE = "one scan, its views dealt out to training and validation"
MOVED_M = 0.4
MOST_VIEWS = 64
"""That a step or an evaluation takes: all there are."""
WRONG = 2
"""Views of the training that a wrong pose moves, by `MOVED_M`."""
SHOWN = (1, 2, 4)
"""Views that an evaluation has, besides all."""
WIDTH = 140
"""Of the table, in a file too."""
FIGURES = ("gate", "all views", *(f"{count} of them" for count in SHOWN), "withheld", "shuffled")
"""Mean gate with all views that are shown; mIoU with so many, with none, and with their features
shuffled among the points."""


@dataclass
class Arguments:
    """Trains on half of a scan's views and evaluates with the other half."""

    scene: Path
    """Scene folder with annotation and eight or more views."""
    out: Path = Path("runs/many-views")
    recipe: str = "bifusion_small"
    tower_weights: Path | None = None
    arms: tuple[str, ...] = ()
    """Some of them; none named: all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 120
    """Of one step each, as there is one scene."""
    image_size: int = 160
    """Width of the images in pixels."""
    jobs: int = 0


def _as_it_is(config: Config) -> None:
    pass


def _always(config: Config) -> None:
    augment = config.data.augment
    config.data.augment = dataclasses.replace(augment, no_views_probability=0, fewer_views_probability=0)


def _half_without(config: Config) -> None:
    config.data.augment = dataclasses.replace(config.data.augment, no_views_probability=0.5)


def _half_unseen(config: Config) -> None:
    bifusion_model(config).training_views.dropout = 0.5


def _one_drawn(config: Config) -> None:
    bifusion_model(config).training_views.feature = "random"


MOVED = "wrong poses"
ARMS: dict[str, Callable[[Config], None]] = {
    "as it is": _as_it_is,
    "all views in every step": _always,
    "half of the steps without views": _half_without,
    "half of the superpoints unseen": _half_unseen,
    "one drawn view a voxel": _one_drawn,
    MOVED: _as_it_is,
}
"""Name → what it changes; the last trains on views of which `WRONG` are moved."""


def main() -> int:
    wanted, console = tyro.cli(Arguments), Console(width=WIDTH)
    if unknown := [arm for arm in wanted.arms if arm not in ARMS]:
        raise InputError(f"--arms: {unknown[0]!r} is unknown; known are {', '.join(ARMS)}")
    moved = write_data(wanted.scene, wanted.out)
    runs = dict(_runs(wanted))
    check_runs(list(runs.values()))
    jobs = wanted.jobs or default_jobs()
    crashed = train_runs(list(runs.values()), jobs=jobs, console=console, report=lambda: None)
    table = Table("arm", "seeds", *FIGURES, "views told of")
    for arm in wanted.arms or ARMS:
        of_arm = [run for (name, _), run in runs.items() if name == arm and run.finished]
        told = [_figures(run, wanted.out) for run in of_arm]
        columns = [spread(figures[name] for figures in told) for name in FIGURES]
        table.add_row(arm, str(len(told)), *columns, "; ".join(sorted({_told(run) for run in of_arm})))
    console.print(table)
    console.print(f"moved by {MOVED_M} m for {MOVED!r}: {', '.join(moved)}")
    return 1 if crashed else 0


def write_data(folder: Path, out: Path) -> list[str]:
    """data/ and data-moved/ with train/ and val/, and data sets to evaluate on with fewer views; the
    names of those views whose poses are moved."""
    names = open_folder(folder, SCANNET20).view_names
    if len(names) < 8:
        raise InputError(f"{folder}: {len(names)} views; expected eight or more")
    learned, shown = names[::2], names[1::2]
    moved = [learned[i] for i in np.linspace(0, len(learned) - 1, WRONG + 2).round().astype(int)[1:-1]]
    _write(out / "data/train", folder, learned)
    _write(out / "data/val", folder, shown)
    _write(out / "data-moved/train", folder, learned, moved)
    _write(out / "data-moved/val", folder, shown)
    for count in SHOWN:
        spaced = np.linspace(0, len(shown) - 1, 2 * count + 1).round().astype(int)[1::2]
        _write(out / f"shown-{count}/val", folder, [shown[i] for i in spaced])
    return moved


def _write(split: Path, folder: Path, names: Iterable[str], moved: Iterable[str] = ()) -> None:
    scene = open_folder(folder, SCANNET20)
    assert scene.segment is not None
    views = (_moved(scene.views[name]) if name in moved else scene.views[name] for name in names)
    write_scene(
        split / folder.name, scene, segments={SCANNET20: scene.segment}, views=views, source=SOURCE
    )


def _moved(view: View) -> View:
    """The view as one of a pose file that is off, in a direction of its own."""
    direction = numpy_rng(0, "many-views", view.name).normal(size=3)
    offset = np.eye(4)
    offset[:3, 3] = MOVED_M * direction / np.linalg.norm(direction)
    poses = {field: offset @ getattr(view, field) for field in ("color_cam2world", "depth_cam2world")}
    return dataclasses.replace(view, **poses)


def _runs(wanted: Arguments) -> Iterator[tuple[tuple[str, int], PlannedRun]]:
    """(arm, seed) → its run."""
    for arm in wanted.arms or tuple(ARMS):
        data, out = wanted.out / ("data-moved" if arm == MOVED else "data"), wanted.out / arm
        planned = plan_runs(
            [wanted.recipe], wanted.seeds, data, out, tower_weights=wanted.tower_weights,
            epochs=wanted.epochs,
        )  # fmt: skip
        for run in planned:
            run.config.data.max_views, run.config.data.image_size = MOST_VIEWS, wanted.image_size
            run.config.trainer.eval_every = run.config.trainer.save_epochs = wanted.epochs
            ARMS[arm](run.config)
            yield (arm, run.config.seed), run


def _figures(run: PlannedRun, out: Path) -> dict[str, float | None]:
    """`FIGURES` of a finished run."""
    whole = _evaluation(run.folder / "evaluation.json", run, None)
    few = {
        f"{count} of them": _evaluation(
            run.folder / f"evaluation-shown-{count}.json", run, out / f"shown-{count}"
        )
        for count in SHOWN
    }
    return {
        "gate": whole["full"]["fusion_2d_ratio"],
        "all views": whole["full"]["miou"],
        "withheld": whole["views_withheld"]["miou"],
        "shuffled": whole["shuffled_2d"]["miou"],
        **{name: evaluation["full"]["miou"] for name, evaluation in few.items()},
    }


def _evaluation(path: Path, run: PlannedRun, data: Path | None) -> dict[str, Any]:
    """As it lies there, else made."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    return evaluate_run(run.folder, data=data)


def _told(run: PlannedRun) -> str:
    """The views that the run's monitor names, in order."""
    folder = RunFolder(run.folder)
    steps = folder.read_lines(folder.steps)
    return ", ".join(sorted({view["view"] for step in steps for view in step["disagreeing_views"]}))


if __name__ == "__main__":
    sys.exit(main())
