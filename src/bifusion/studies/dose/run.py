"""Dose and response: the same models on rooms of which one property changes, and what images add."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console

from bifusion.datasets.rooms import RoomsConfig, make_rooms
from bifusion.datasets.rooms.audit import audit
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig
from bifusion.errors import InputError
from bifusion.recipes import get_recipe
from bifusion.storage.files import locked
from bifusion.studies.comparison.run import report_so_far, write_report
from bifusion.studies.demo import (
    AS_PART,
    PretrainTower,
    check_rooms,
    check_tower,
    run_pretraining,
)
from bifusion.studies.dose.judge import REFERENCE, Level, arms_of, judge_dose, measure_levels
from bifusion.studies.dose.page import render_dose
from bifusion.studies.dose.report import DoseReport, Knob
from bifusion.studies.dose.terminal import print_dose
from bifusion.studies.page.files import write_study
from bifusion.studies.page.style import arm_looks
from bifusion.studies.training_runs.plan import (
    PlannedRun,
    check_runs,
    check_settings,
    default_jobs,
    need_small_tower,
    plan_runs,
)
from bifusion.studies.training_runs.progress import progress_bar
from bifusion.studies.training_runs.train import check_jobs, check_out, train_runs
from bifusion.untrusted.json_text import read_json

KnobName = Literal[
    "texture_contrast", "cover", "pose_noise_m", "pose_noise_rad", "depth_noise", "color_blur_m",
    "texture_period_m", "point_spacing_m", "voxel_size_m",
]  # fmt: skip
VOXEL_SIZE = "voxel_size_m"
"""The one knob that is of the models' data; the others are of the rooms."""
KNOBS: dict[str, Knob] = {
    knob.name: knob
    for knob in (
        Knob(
            "texture_contrast",
            "Texture contrast",
            "",
            "It scales the patterns that alone tell the texture classes apart; at 0 (texture-off rooms) "
            "they all look the same.",
            zero_at=0.0,
        ),
        Knob("cover", "Share of points to be seen", "", "It is the share that a room's views aim at."),
        Knob("pose_noise_m", "Noise of camera positions", "m", "It moves every pixel off its point."),
        Knob(
            "pose_noise_rad", "Noise of camera directions", "rad", "It moves every pixel off its point."
        ),
        Knob("depth_noise", "Noise of depth images", "", "It is a factor on noise and dropouts."),
        Knob(
            "color_blur_m",
            "Blur of point colours",
            "m",
            "The smaller it is, the more of the patterns the points' own colours show.",
        ),
        Knob("texture_period_m", "Period of the patterns", "m", "Voxels resolve the coarser ones."),
        Knob("point_spacing_m", "Spacing of the points", "m", "It is how fine the scan itself is."),
        Knob(VOXEL_SIZE, "Voxel size", "m", "It is what all models see of the same rooms in 3D."),
    )
}


@dataclass
class DoseConfig:
    """Make rooms for each value of a knob, train the recipes on them, and plot what images add.

    The gain is mIoU minus that of BiFusion without views, paired by seed.
    """

    knob: KnobName
    """Which property of the rooms changes, or the voxel size of the models."""
    values: tuple[float, ...]
    """What the knob is set to, one level after the other."""
    out: Path = Path("runs/dose")
    """Everything goes here; what is finished in it is not made again."""
    recipes: tuple[str, ...] = ("bifusion_small", "bifusion_small_without_views")
    """One of them trained without views; the gain of each other one is measured from it."""
    seeds: tuple[int, ...] = (0,)
    """Three or more give a spread to hold the gain against."""
    epochs: int | None = None
    """Length of all runs instead of the recipes' own."""
    jobs: int = 0
    """Runs at a time; 0: one a GPU, or two on a machine without."""
    accept_changes: bool = False
    """Go on with runs though scenes or versions of the software have changed; reports then say what."""
    rooms: RoomsConfig = field(default_factory=RoomsConfig)
    """All that does not change."""
    probe_rooms: int = 30
    """Rooms generated only for the audit's probe, at each value."""
    tower_weights: Path | None = None
    """Weights of the image tower; left out, the small one is pretrained once, as in the demo."""
    pretraining_rooms: int = 16
    """Rooms to pretrain the image tower on."""
    pretraining: TowerPretrainConfig = field(default_factory=TowerPretrainConfig)


@dataclass(frozen=True)
class PlannedLevel:
    """One value of the knob: its folder, rooms and runs."""

    value: float
    folder: Path
    rooms: RoomsConfig
    runs: list[PlannedRun]

    @property
    def data(self) -> Path:
        return self.folder / "rooms"

    def told(self) -> Level:
        """What a report needs to know of it."""
        run_dirs = tuple(run.folder for run in self.runs)
        return Level(self.value, self.folder, run_dirs, self.data / "audit.json")


def run_dose(wanted: DoseConfig, console: Console) -> int:
    """Makes, trains and reports value by value; returns the exit status (1 if a run crashed).

    Interrupted, the same call goes on where it was. InputError for values, recipes or a folder that
    do not fit, before anything is made, and where another process makes the same.
    """
    check_out(wanted.out)
    levels = plan_levels(wanted)
    check_jobs(wanted.jobs or default_jobs())
    check_rooms(wanted.rooms)
    tower = _own_tower(wanted)
    if tower is not None:
        check_tower(tower, *AS_PART)
    if wanted.probe_rooms < 0:
        raise InputError(f"--probe-rooms: found {wanted.probe_rooms}; expected 0 or more")
    for level in levels:
        _refuse_other_rooms(level)
    with locked(wanted.out):
        if tower is not None:
            run_pretraining(tower, console)
        return _run_levels(wanted, levels, console)


def _run_levels(wanted: DoseConfig, levels: Sequence[PlannedLevel], console: Console) -> int:
    knob, title = KNOBS[wanted.knob], f"What images add: {KNOBS[wanted.knob].label.lower()}"
    told = [level.told() for level in levels]
    dose = write_dose(knob, told, wanted.out, title=title)
    crashed: list[Path] = []
    for level in levels:
        _make_data(level, wanted.probe_rooms, console)
        crashed += _train_level(level, wanted, console)
        dose = write_dose(knob, told, wanted.out, title=title, crashed=crashed)
    print_dose(dose, console)
    console.print(f"dose and response   {wanted.out / 'dose.html'} (dose.json beside it)", markup=False)
    console.print(f"each value          {wanted.out}/{wanted.knob}-*/report.html", markup=False)
    return 1 if crashed else 0


def _train_level(level: PlannedLevel, wanted: DoseConfig, console: Console) -> list[Path]:
    """Trains a level's runs and compares them; folders of those that crashed."""
    name = f"{wanted.knob} {level.value:g}"
    console.rule(name)
    check_runs(level.runs)
    crashed = train_runs(
        level.runs,
        jobs=wanted.jobs or default_jobs(),
        console=console,
        report=lambda: report_so_far(level.runs, level.folder, name, level.data / "audit.json"),
        accept_changes=wanted.accept_changes,
    )
    finished = [run.folder for run in level.runs if run.folder.name not in crashed]
    if finished:
        audited = level.data / "audit.json"
        write_report(finished, level.folder, audit=audited, crashed=crashed, title=name)
    return [run.folder for run in level.runs if run.folder.name in crashed]


def write_dose(
    knob: Knob, levels: Sequence[Level], out: Path, *, title: str, crashed: Sequence[Path] = ()
) -> DoseReport:
    """Judges the levels as they are, writes dose.json, its schema and dose.html to `out`.

    `crashed`: folders of runs that have no result because they crashed. InputError for a damaged run
    folder or audit.
    """
    measured = measure_levels(levels, crashed)
    dose = judge_dose(knob, measured, title)
    looks = arm_looks(arms_of(measured))
    write_study(out, "dose", "BiFusion dose and response", dose, render_dose(dose, looks))
    return dose


# ------------------------------------------------------------------------------------- planning


def plan_levels(wanted: DoseConfig) -> list[PlannedLevel]:
    """The levels in rising order, each in `out/KNOB-VALUE`; InputError where the request makes none."""
    _check_recipes(wanted.recipes)
    given = getattr(wanted.rooms, wanted.knob, None)
    if given != getattr(RoomsConfig(), wanted.knob, None):
        option = f"--rooms.{wanted.knob.replace('_', '-')}"
        raise InputError(
            f"dose: {option} is {given:g}, but {wanted.knob} is the knob, which --values sets; leave "
            f"{option} out, or turn another knob"
        )
    names = {f"{wanted.knob}-{value:g}": value for value in sorted(wanted.values)}
    if not names or len(names) < len(wanted.values):
        raise InputError(
            f"dose: --values {' '.join(map(str, wanted.values)) or 'is empty'}; expected at least one "
            "value, each once (they are told apart by six digits)"
        )
    return [_plan_level(wanted, value, wanted.out / name) for name, value in names.items()]


def _plan_level(wanted: DoseConfig, value: float, folder: Path) -> PlannedLevel:
    if not math.isfinite(value) or value < 0 or (value == 0 and wanted.knob == VOXEL_SIZE):
        raise InputError(f"dose: --values holds {value}, no value that {wanted.knob} can take")
    of_rooms = {} if wanted.knob == VOXEL_SIZE else {wanted.knob: value}
    rooms = dataclasses.replace(wanted.rooms, **of_rooms)
    runs = plan_runs(
        wanted.recipes,
        wanted.seeds,
        folder / "rooms",
        folder,
        tower_weights=_tower_path(wanted),
        epochs=wanted.epochs,
    )
    for run in runs:
        if wanted.knob == VOXEL_SIZE:
            run.config.data.voxel_size_m = value
        if wanted.tower_weights is not None and (tower := run.config.tower_for_weights) is not None:
            tower.check_weights()
    check_settings(runs)
    return PlannedLevel(value, folder, rooms, runs)


def _check_recipes(recipes: tuple[str, ...]) -> None:
    roles = [get_recipe(recipe).arm for recipe in recipes]
    if roles.count(REFERENCE) != 1 or len(set(recipes)) < max(len(recipes), 2):
        raise InputError(
            f"dose: --recipes {' '.join(recipes)}; expected one recipe without views, from which gains "
            "are measured, and one or more others, such as bifusion_small bifusion_small_without_views"
        )


def _tower_path(wanted: DoseConfig) -> Path | None:
    """Where the weights of the image tower are or will be; None where no recipe takes the small one."""
    if wanted.tower_weights is not None:
        if not wanted.tower_weights.is_file():
            raise InputError(f"dose: --tower-weights {wanted.tower_weights}: there is no such file")
        return wanted.tower_weights
    return wanted.out / "tower-small.safetensors" if need_small_tower(wanted.recipes) else None


def _own_tower(wanted: DoseConfig) -> PretrainTower | None:
    """The image tower that is pretrained here; None where none is needed, or its weights were given."""
    tower, rooms = _tower_path(wanted), wanted.out / "pretraining-rooms"
    if tower is None or wanted.tower_weights is not None:
        return None
    return PretrainTower(tower, rooms, wanted.pretraining_rooms, wanted.pretraining)


# ----------------------------------------------------------------------------------------- rooms


def _refuse_other_rooms(level: PlannedLevel) -> None:
    """InputError where the level's folder holds rooms that finished runs in it were trained on, and
    that differ from those asked for."""
    stored = level.data / "rooms.json"
    if not stored.exists():
        return
    was, now = (dataclasses.asdict(rooms) for rooms in (RoomsConfig.read(stored), level.rooms))
    changed = [f"{key}: {was[key]} → {now[key]}" for key in now if was[key] != now[key]]
    if changed:
        raise InputError(
            f"{level.data} holds other rooms ({'; '.join(changed)}): choose another --out, or remove "
            f"{level.folder}"
        )


def _make_data(level: PlannedLevel, probe_rooms: int, console: Console) -> None:
    """Rooms and their audit, as far as they are not there."""
    with progress_bar("rooms", console) as progress:
        make_rooms(level.data, level.rooms, progress)
    stored, voxel_size_m = level.data / "audit.json", level.runs[0].config.data.voxel_size_m
    audited = read_json(stored, advice="remove it") if stored.exists() else None
    if not isinstance(audited, dict) or audited.get("voxel_size_m") != voxel_size_m:
        audit(level.data, voxel_size_m, probe_rooms)
