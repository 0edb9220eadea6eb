"""Kills every long command with SIGKILL at random moments, repeats it, and compares what came out.

    python tools/kill_trial.py [--runs 12] [--long-runs 3] [--kills 3] [--seed 0] [--commands NAME ...]

Of each command one call is left alone; every other one is killed one to three times, at moments drawn
evenly from the time that the first one took, and then repeated to its end. Compared, to the bit, are all
files that it leaves but those of the clock. No process of the command may live on after a kill, no
half-written file or folder and no piece of shared memory may stay. Exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # forked processes must not look for threads that are not there
    os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from killing import Toll, finish, kill_and_repeat, last_words
from rich.console import Console
from rich.table import Table

import prepare_inputs
from bifusion.config.run import save_config
from clip_files import write_color_clip
from room_meshes import permuted, room_mesh, write_ply
from tiny_runs import make_tiny_data, tiny_config

SCENES = 4
"""Inputs of each `prepare`."""
ROOMS = [f"--rooms.{option[2:]}" if option.startswith("--") else option
         for option in prepare_inputs.TINY_ROOMS]  # fmt: skip
PRETRAINING = ("--pretraining-rooms", "2", "--pretraining.steps", "2")


@dataclass(frozen=True)
class Ground:
    """What commands work on."""

    root: Path
    data: Path
    run: Path
    """A trained run."""


Setup = Callable[[Ground, Path], list[str]]
"""Fills a folder with what a command needs, and returns the command's arguments."""


@dataclass
class Outcome:
    """What became of one command."""

    name: str
    runs: int = 0
    seconds: float = 0.0
    """Of the call that was left alone."""
    toll: Toll = field(default_factory=Toll)


# ------------------------------------------------------------------------------------ the commands


def training(save_epochs: int, save_every: int, workers: int = 0) -> Setup:
    """`train --resume` of a staged run of three epochs, two steps each."""

    def set_up(ground: Ground, place: Path) -> list[str]:
        config = tiny_config("bifusion_small", ground.data)
        config.trainer = dataclasses.replace(
            config.trainer, workers=workers, save_epochs=save_epochs, save_every=save_every, eval_every=3
        )
        save_config(config, place / "run.json")
        return ["train", "run.json", "--out", "run", "--resume"]

    return set_up


def preparing(kind: str) -> Setup:
    def set_up(ground: Ground, place: Path) -> list[str]:
        return ["prepare", *prepare_inputs.KINDS[kind](place, SCENES).arguments]

    return set_up


def keeping_features(ground: Ground, place: Path) -> list[str]:
    save_config(tiny_config("bifusion_small", ground.data), place / "run.json")
    options = ["--data", str(ground.data), "--out", "out", "--threads", "1"]
    return ["prepare", "features", "run.json", *options]


def predicting(ground: Ground, place: Path) -> list[str]:
    return ["predict", str(ground.run), str(ground.data / "val" / "roomval0"), "--out", "out"]


def finding(ground: Ground, place: Path) -> list[str]:
    architecture, weights = write_color_clip(ground.root / "clip")  # a place that all pages name alike
    tower = ["--tower", str(architecture), "--weights", str(weights)]
    return ["find", str(ground.data / "val" / "roomval0"), "red", *tower, "--out", "out"]


def viewing(ground: Ground, place: Path) -> list[str]:
    return ["view", str(ground.data / "val" / "roomval0"), "--html", "room.html"]


def pretraining(ground: Ground, place: Path) -> list[str]:
    rooms = ["--rooms", "rooms", "--num-rooms", "2", "--config.image-size", "160"]
    return ["pretrain-tower", "--out", "tower.safetensors", *rooms, "--config.steps", "4"]


def labelling(ground: Ground, place: Path) -> list[str]:
    write_ply(place / "room.ply", permuted(room_mesh(0.1)))
    return ["scan", "room.ply", "--run", str(ground.run), "--out", "out", "--views", "0"]


def exporting(task: str) -> Setup:
    def set_up(ground: Ground, place: Path) -> list[str]:
        split = str(ground.data / "val")
        return ["export-submission", str(ground.run), split, "--task", task, "--out", "out"]

    return set_up


def importing(ground: Ground, place: Path) -> list[str]:
    return ["import-checkpoint", str(ground.run), "out"]


def evaluating(ground: Ground, place: Path) -> list[str]:
    shutil.copytree(ground.run, place / "run", symlinks=True)
    (place / "run" / "evaluation.json").unlink()
    return ["evaluate", "run"]


def comparing(ground: Ground, place: Path) -> list[str]:
    recipes = ["tiny_recipes:baseline", "tiny_recipes:staged"]
    return ["compare", *recipes, "--data", str(ground.data), "--out", "out", "--jobs", "2"]


def ablating(ground: Ground, place: Path) -> list[str]:
    grid = ["--grid", "lr=1", "range=1", "precision=32-true", "--seeds", "0", "--epochs", "3"]
    arms = ["--ablate", "--base", "bifusion_tiny", "bifusion_tiny_plan_a"]
    return ["compare", *arms, *grid, "--data", str(ground.data), "--out", "out"]


def sweeping(ground: Ground, place: Path) -> list[str]:
    grid = ["--grid", "lr=1,1e30", "condition=plain", "--seeds", "0", "--epochs", "3"]
    arms = ["--sweep", "lr", "--base", "bifusion_tiny", "bifusion_tiny_naive"]
    return ["compare", *arms, *grid, "--data", str(ground.data), "--out", "out"]


def dosing(ground: Ground, place: Path) -> list[str]:
    recipes = ["--recipes", "bifusion_tiny", "bifusion_tiny_without_views", "--epochs", "3"]
    levels = ["--knob", "texture_contrast", "--values", "0", "1", "--probe-rooms", "2"]
    return ["dose", *levels, *recipes, *ROOMS, *PRETRAINING, "--out", "out", "--jobs", "2"]


def demonstrating(ground: Ground, place: Path) -> list[str]:
    return ["demo", "--out", "out", "--epochs", "3", *ROOMS, *PRETRAINING]


QUICK: dict[str, Setup] = {
    "train, saved each epoch": training(1, 0),
    "train, saved each third epoch": training(3, 0),
    "train, saved at its end": training(20, 0),
    "train, saved each step, with workers": training(1, 1, workers=2),
    **{f"prepare {kind}": preparing(kind) for kind in prepare_inputs.KINDS},
    "prepare features": keeping_features,
    "predict": predicting,
    "find": finding,
    "view": viewing,
    "scan": labelling,
    "evaluate": evaluating,
    "export-submission semantic": exporting("semantic"),
    "export-submission instance": exporting("instance"),
    "import-checkpoint": importing,
    "pretrain-tower": pretraining,
}
LONG: dict[str, Setup] = {
    "compare": comparing,
    "compare --ablate": ablating,
    "compare --sweep": sweeping,
    "dose": dosing,
    "demo": demonstrating,
}


# -------------------------------------------------------------------------------------- the trial


def make_ground(root: Path) -> Ground:
    """Tiny rooms, and a run that was trained on them, in a process of its own: this one is forked, and
    threads of libraries would be missing in the forks."""
    data = make_tiny_data(root / "data", train=4, val=2)
    save_config(tiny_config("bifusion_small", data), root / "run.json")
    if finish(["train", "run.json", "--out", "run"], root).status:
        raise RuntimeError(f"the run to work on: {last_words(root)}")
    return Ground(root, data, root / "run")


def try_command(name: str, set_up: Setup, ground: Ground, runs: int, kills: int, seed: int) -> Outcome:
    """Kills a command in each of `runs` folders, up to `kills` times, and compares what it leaves with
    a call left alone."""
    outcome, folder = Outcome(name), ground.root / "-".join(name.replace(",", "").split())
    alone = folder / "alone"
    alone.mkdir(parents=True)
    ended = finish(set_up(ground, alone), alone)
    outcome.seconds = ended.seconds
    if ended.status:
        outcome.toll.wrong.append(f"undisturbed it ended with {ended.status}: {last_words(alone)}")
        return outcome
    for number in range(runs):
        rng, place = random.Random(f"{seed} {name} {number}"), folder / str(number)
        place.mkdir()
        arguments, wanted = set_up(ground, place), rng.randint(1, kills)
        toll = kill_and_repeat(rng, arguments, place, alone, ended.seconds, wanted)
        outcome.runs += 1
        outcome.toll.add(toll, f"run {number}")
        if not toll.all():
            shutil.rmtree(place)
    return outcome


def report(outcomes: list[Outcome], console: Console) -> None:
    table = Table("command", "seconds", "runs", "kills", "wrong", "orphans", "left behind")
    for outcome in outcomes:
        table.add_row(outcome.name, f"{outcome.seconds:.1f}", *map(str, counts_of([outcome])))
    table.add_row("all", "", *map(str, counts_of(outcomes)))
    console.print(table)
    for outcome in outcomes:
        for wrong in outcome.toll.all()[:5]:
            console.print(f"{outcome.name}: {wrong}", markup=False, highlight=False)


def counts_of(outcomes: list[Outcome]) -> list[int]:
    """Runs, kills, what was wrong, orphans, what was left behind, of all of them."""
    tolls = [one.toll for one in outcomes]
    lists = [[len(getattr(toll, name)) for toll in tolls] for name in ("wrong", "orphans", "left")]
    return [sum(one.runs for one in outcomes), sum(toll.kills for toll in tolls), *map(sum, lists)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=12, help="of each command of seconds")
    parser.add_argument("--long-runs", type=int, default=3, help="of each study")
    parser.add_argument("--kills", type=int, default=3, help="most of one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=[*QUICK, *LONG], default=[*QUICK, *LONG])
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    tests = str(Path(__file__).parents[1] / "tests")
    os.environ["PYTHONPATH"] = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    console, began = Console(), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="kill-trial-"))
    ground, outcomes = make_ground(root), []
    for name in wanted.commands:
        runs = wanted.runs if name in QUICK else wanted.long_runs
        set_up = (QUICK | LONG)[name]
        outcomes.append(try_command(name, set_up, ground, runs, wanted.kills, wanted.seed))
        counts = "{} runs, {} kills, {} wrong, {} orphans, {} left".format(*counts_of(outcomes[-1:]))
        console.print(f"{name}: {counts}; {time.monotonic() - began:.0f} s", highlight=False)
    report(outcomes, console)
    if any(outcome.toll.all() for outcome in outcomes):
        console.print(f"the folders are in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
