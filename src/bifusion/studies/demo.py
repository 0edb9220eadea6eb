"""The main job on the embedded default: rooms, image tower, five models, report, one prediction."""

from __future__ import annotations

import dataclasses
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from safetensors import SafetensorError, safe_open

from bifusion.datasets.rooms import RoomsConfig, make_rooms
from bifusion.datasets.rooms.audit import audit
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig, check_pretraining
from bifusion.datasets.rooms.pretraining.contrastive import pretrain_tower as pretrain
from bifusion.errors import InputError
from bifusion.inference.segmenter import Segmenter
from bifusion.storage.files import locked
from bifusion.studies.comparison.report import ComparisonReport
from bifusion.studies.comparison.run import report_so_far, write_report
from bifusion.studies.comparison.terminal import print_table
from bifusion.studies.figures.arms import MIN_SEEDS
from bifusion.studies.training_runs.plan import (
    PlannedRun,
    check_runs,
    check_seeds,
    check_settings,
    default_jobs,
    need_small_tower,
    plan_runs,
)
from bifusion.studies.training_runs.progress import progress_bar
from bifusion.studies.training_runs.train import check_jobs, check_out, require_result, train_runs
from bifusion.untrusted.files import check_regular
from bifusion.untrusted.json_text import parse_json
from bifusion.viewer.page import write_view
from bifusion.viewer.prediction import show_prediction

DEMO_RECIPES = (
    "oneformer3d_small",
    "mask3d_small",
    "bifusion_small",
    "bifusion_small_without_views",
    "bifusion_small_naive",
)
AS_PART = ("pretraining", "--pretraining-rooms")
"""What studies that pretrain the image tower call the settings of that; see `check_tower`."""
TITLE = "BiFusion and its baseline on generated rooms"


@dataclass
class PretrainTower:
    """Contrastive pretraining of the small image tower on rooms of seeds that no split uses."""

    out: Path = Path("runs/tower-small.safetensors")
    """File for the weights."""
    rooms: Path = Path("runs/pretraining-rooms")
    """Where the rooms are (made if they are not there)."""
    num_rooms: int = 16
    """Rooms to pretrain on."""
    config: TowerPretrainConfig = field(default_factory=TowerPretrainConfig)


@dataclass
class DemoConfig:
    """Make rooms, pretrain the image tower, train and compare five models.

    All figures of its report are of generated rooms.
    """

    out: Path = Path("runs/demo")
    """Everything goes here; a second call goes on where the first one was."""
    recipes: tuple[str, ...] = DEMO_RECIPES
    """The models: recipes at small size, those of the report's verdicts by default."""
    seeds: tuple[int, ...] = (0,)
    """Each has rooms of its own, of the same seed, in OUT/rooms-seedK. Three or more turn "indicative"
    verdicts into final ones; each takes its time."""
    epochs: int | None = None
    """Length of all runs instead of the recipes' own."""
    jobs: int = 0
    """Runs at a time; 0: one a GPU, or two on a machine without."""
    accept_changes: bool = False
    """Go on with runs though scenes or versions of the software have changed; reports then say what."""
    rooms: RoomsConfig = field(default_factory=RoomsConfig)
    """What they are like; `rooms.seed` is added to each of the seeds."""
    pretraining_rooms: int = 16
    """Rooms to pretrain the image tower on."""
    pretraining: TowerPretrainConfig = field(default_factory=TowerPretrainConfig)
    """Of the small image tower, on rooms that no split uses (--pretraining.objective views: without
    labels)."""


def run_pretraining(wanted: PretrainTower, console: Console) -> None:
    """Makes the rooms where needed and writes the tower's weights, unless they are there already."""
    check_tower(wanted)
    if wanted.out.exists():
        console.print(f"image tower: {wanted.out} is there, taken as it is", markup=False)
        return
    with progress_bar("rooms to pretrain the image tower", console) as progress:
        make_rooms(wanted.rooms, RoomsConfig.for_pretraining(wanted.num_rooms), progress)
    with progress_bar("pretraining the image tower", console) as progress:
        result = pretrain(wanted.rooms, wanted.out, wanted.config, progress)
    console.print("image tower: " + ", ".join(f"{key} {value:.3f}" for key, value in result.items()))


def check_tower(
    wanted: PretrainTower, path: str = "config", number_of_rooms: str = "--num-rooms"
) -> None:
    """InputError, before anything is made, where the image tower cannot be pretrained so, or one that
    was pretrained on something else is there.

    `path`, `number_of_rooms`: what the command that was called calls these settings.
    """
    check_pretraining(wanted.config, path)
    if wanted.num_rooms < 1:
        raise InputError(f"{number_of_rooms}: found {wanted.num_rooms}; expected 1 or more")
    if wanted.out.exists():
        _check_objective(wanted)


def check_rooms(rooms: RoomsConfig) -> None:
    """InputError where a study has no room to train on, or none to validate on."""
    for name in ("train_rooms", "val_rooms"):
        if getattr(rooms, name) < 1:
            option = name.replace("_", "-")
            raise InputError(f"--rooms.{option}: found {getattr(rooms, name)}; expected 1 or more")


def _check_objective(wanted: PretrainTower) -> None:
    """InputError where the tower that is there was pretrained on something else than is asked for."""
    elsewhere = "write it to another place, or remove this one"
    check_regular(wanted.out, advice=elsewhere)
    try:
        with safe_open(wanted.out, framework="pt") as file:
            described = (file.metadata() or {}).get("config", "{}")
    except (SafetensorError, OSError, MemoryError) as error:
        raise InputError(f"{wanted.out}: is no tower ({error}); {elsewhere}") from error
    stored = parse_json(described, wanted.out, advice=elsewhere)
    objective = stored.get("objective", "names") if isinstance(stored, dict) else "names"
    if objective != wanted.config.objective:
        raise InputError(
            f"{wanted.out}: this tower was pretrained on {objective!r}, asked for is "
            f"{wanted.config.objective!r}; {elsewhere}"
        )


@dataclass(frozen=True)
class Ground:
    """What runs on generated rooms need."""

    rooms: dict[int, Path]
    """Seed → folder of its rooms."""
    tower: Path | None
    """Weights of the small image tower, the same for all seeds; None where no model has it."""


def rooms_of(out: Path, seed: int) -> Path:
    """Where the rooms of a seed are, in the folder of a demo."""
    return out / f"rooms-seed{seed}"


def ground_of(wanted: DemoConfig) -> Ground:
    """Where it is, or will be, in `wanted.out`."""
    tower = wanted.out / "tower-small.safetensors" if need_small_tower(wanted.recipes) else None
    return Ground({seed: rooms_of(wanted.out, seed) for seed in wanted.seeds}, tower)


def make_ground(wanted: DemoConfig, console: Console) -> Ground:
    """Makes the rooms of each seed and pretrains the image tower in `wanted.out`, where they are not
    there yet."""
    ground = ground_of(wanted)
    for seed, folder in ground.rooms.items():
        config = dataclasses.replace(wanted.rooms, seed=wanted.rooms.seed + seed)
        with progress_bar(f"rooms of seed {seed}", console) as progress:
            make_rooms(folder, config, progress)
    if ground.tower is not None:
        run_pretraining(_tower(wanted, ground.tower), console)
    return ground


def _tower(wanted: DemoConfig, out: Path) -> PretrainTower:
    rooms = wanted.out / "pretraining-rooms"
    return PretrainTower(out, rooms, wanted.pretraining_rooms, wanted.pretraining)


def plan_demo(wanted: DemoConfig, ground: Ground) -> list[PlannedRun]:
    """Every model with every seed, on that seed's rooms."""
    return [
        run
        for seed, rooms in ground.rooms.items()
        for run in plan_runs(
            wanted.recipes, (seed,), rooms, wanted.out, tower_weights=ground.tower, epochs=wanted.epochs
        )
    ]


def run_demo(wanted: DemoConfig, console: Console) -> int:
    """Runs the whole main job; returns the exit status (1 if a run crashed).

    InputError, before anything is made, for a request that could come to no end.
    """
    check_demo(wanted)
    with locked(wanted.out):
        return _run_demo(wanted, console)


def check_demo(wanted: DemoConfig) -> None:
    """InputError for seeds, recipes, lengths or rooms that make no demo."""
    check_out(wanted.out)
    check_seeds(wanted.seeds)
    check_jobs(wanted.jobs or default_jobs())
    if not wanted.recipes:
        raise InputError("--recipes is empty; expected one recipe or more")
    ground = ground_of(wanted)
    check_settings(plan_demo(wanted, ground))
    check_rooms(wanted.rooms)
    if ground.tower is not None:
        check_tower(_tower(wanted, ground.tower), *AS_PART)


def _run_demo(wanted: DemoConfig, console: Console) -> int:
    started = time.monotonic()
    ground = make_ground(wanted, console)
    runs, first = plan_demo(wanted, ground), ground.rooms[wanted.seeds[0]]
    check_runs(runs)
    if not (first / "audit.json").exists():
        console.print(
            "auditing the rooms: what colour and geometry alone give away, what superpoints can reach"
        )
        audit(first, runs[0].config.data.voxel_size_m)
    console.print(f"set up after {_minutes(started)}; training {len(runs)} runs")
    trained = time.monotonic()
    crashed = train_runs(
        runs,
        jobs=wanted.jobs or default_jobs(),
        console=console,
        report=lambda: report_so_far(runs, wanted.out, TITLE, first / "audit.json"),
        accept_changes=wanted.accept_changes,
    )
    console.print(f"trained in {_minutes(trained)}")
    complete = [run for run in runs if run.folder.name not in crashed]
    require_result(complete, crashed, wanted.out)
    report = write_report(
        [run.folder for run in complete],
        wanted.out,
        audit=first / "audit.json",
        crashed=crashed,
        title=TITLE,
    )
    scene = sorted((first / "val").iterdir())[0]
    _show_end(wanted, complete, report, scene, console)
    console.print(f"all in {_minutes(started)}")
    return 1 if crashed else 0


def _show_end(
    wanted: DemoConfig,
    runs: list[PlannedRun],
    report: ComparisonReport,
    scene: Path,
    console: Console,
) -> None:
    """Predicted scan, comparison table, where everything lies, what to try next."""
    out = wanted.out
    best = next((run for run in runs if run.config.recipe == "bifusion_small"), None)
    print_table(report, console)
    lines = []
    if best is not None:
        folder = out / "prediction"
        Segmenter(best.folder).predict(scene).write(folder)
        write_view(folder / "view.html", show_prediction(folder, scene))
        lines.append(f"predicted scan   {folder}/view.html (semantic.ply, instance.ply, instances.json)")
    lines += [f"report           {out / 'report.html'} (report.json beside it)"]
    lines += [f"run folders      {out}/*-seed*", "Next:"]
    if len(wanted.seeds) < MIN_SEEDS:
        lines.append(f"  {with_more_seeds(wanted)}     # three seeds: final verdicts")
    for run in ([best] if best is not None else runs)[:1]:
        places = shlex.join([str(run.folder), str(scene)])
        lines.append(f"  bifusion predict {places}     # any scene folder")
    lines.append("  bifusion scan --help     # your own scans")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)  # what is to be copied stays in one piece


def with_more_seeds(wanted: DemoConfig) -> str:
    """How to go on to as many seeds as a verdict takes: the command, where it is the plain one."""
    seeds = list(wanted.seeds)
    while len(seeds) < MIN_SEEDS:
        seeds.append(max(seeds) + 1)
    asked = f"--seeds {' '.join(map(str, seeds))}"
    plain = DemoConfig(out=wanted.out, seeds=wanted.seeds, jobs=wanted.jobs)
    if wanted != plain:  # what else was asked for is asked for again
        return f"the same command with {asked}"
    return f"bifusion demo --out {shlex.quote(str(wanted.out))} {asked}"


def _minutes(since: float) -> str:
    return f"{(time.monotonic() - since) / 60:.1f} minutes"
