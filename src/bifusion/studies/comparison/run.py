"""Train the arms of a comparison side by side and keep its report up to date.

Every run is a process of its own (`bifusion train CONFIG`), so that one that crashes takes no other
with it, and two of them use two cores better than one does. The parent only reads run folders.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from rich.console import Console

from bifusion.config.run import Config, check_consistent, save_config
from bifusion.config.stages import Timeline
from bifusion.data.dataset import SceneDataset, with_labels
from bifusion.labels.label_set import require_same_classes
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.towers.clip_weights import FILE_SUFFIXES, locate_weights
from bifusion.recipes import get_recipe
from bifusion.runs.run_folder import GUARD_STOPPED_EXIT, RunFolder
from bifusion.runs.stored_config import load_config
from bifusion.studies.comparison.forked_runs import start_forked
from bifusion.studies.comparison.progress import RunTable
from bifusion.studies.comparison.report import audit_of, write_report
from bifusion.training.signals import terminated_as_interrupted
from bifusion.types import InputError

POLL_SECONDS = 0.25
REPORT_SECONDS = 60.0
"""A partial report at most this often, and never in more than a twentieth of the time."""
STOP_SECONDS = 30.0
NAMED_RUNS = 30
"""Finished runs that are named one by one."""
FINISHED = ("completed", "guard_stopped")


@runtime_checkable
class Process(Protocol):
    """A run in progress, as `subprocess.Popen` and `forked_runs.ForkedRun` are."""

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


@runtime_checkable
class Watch(Protocol):
    """Shows what runs have written since it was last asked to; a context manager."""

    def __enter__(self) -> Watch: ...
    def __exit__(self, *error: object) -> None: ...
    def update(self) -> None: ...


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed, and the folder it trains in."""

    config: Config
    folder: Path

    @property
    def finished(self) -> bool:
        """Trained to its end (or stopped by its guard) and evaluated."""
        status = RunFolder(self.folder).read_status()
        evaluated = (self.folder / "evaluation.json").exists()
        return status is not None and status.state in FINISHED and evaluated


def plan_runs(
    recipes: Sequence[str],
    seeds: Sequence[int],
    data: Path,
    out: Path,
    *,
    tower_weights: Path | None = None,
    epochs: int | None = None,
) -> list[PlannedRun]:
    """The runs of a comparison, seed by seed, in folders `out/RECIPE-seedK`.

    All of them read `data`; `tower_weights` initialises the image tower of those that have one (but
    for the control whose tower is to be random), `epochs` overrides the length of all. InputError
    for an unknown recipe, or a damaged labels.json in `data`.
    """
    runs = []
    for seed in seeds:
        for recipe in recipes:
            config = get_recipe(recipe)
            config.seed = seed
            config.data.root = data
            config.data = with_labels(config.data)
            if epochs is not None:
                config.trainer.epochs = epochs
            tower = tower_for_weights(config)
            if tower is not None and tower_weights is not None:
                tower.pretrained = str(tower_weights)
            runs.append(PlannedRun(config, out / f"{recipe}-seed{seed}"))
    return runs


def tower_for_weights(config: Config) -> ClipConfig | None:
    """The image tower that pretrained weights are for; not that of the control with a random one."""
    model = config.model
    if not isinstance(model, BiFusionConfig) or model.image_features != "clip":
        return None
    return None if config.arm == "random_tower" else model.tower


def check_runs(runs: Sequence[PlannedRun]) -> None:
    """InputError for what would end a run as it starts: its numbers, length, data or weights."""
    for config in (run.config for run in runs):
        check_consistent(config)
        Timeline(config.stages, config.trainer.epochs)
        for split in ("train", "val"):
            SceneDataset(config.data, split, config.seed, training=False)
        tower = tower_for_weights(config)
        if tower is not None and Path(tower.pretrained or "").suffix in FILE_SUFFIXES:
            locate_weights(tower.architecture, str(tower.pretrained), quick_gelu=False)


def train_runs(
    runs: Sequence[PlannedRun],
    out: Path,
    *,
    jobs: int,
    title: str,
    console: Console,
    report: Callable[[], object] | None = None,
    watch: Watch | None = None,
    forked: bool = False,
) -> list[str]:
    """Trains and evaluates every run that is not finished yet, `jobs` at a time.

    `report` writes what there is so far, by default the comparison's report; `watch` shows progress,
    by default a table of all runs; `forked`: runs of seconds, which are forks of one process and keep
    no checkpoint.

    Returns the names of the runs that crashed; the others are complete. A run stopped by its guard
    is complete: that is a result. Interrupted, it passes the signal on, waits for the runs to save,
    and raises KeyboardInterrupt; the same call then goes on where it was.
    """
    if jobs < 1:
        raise InputError(f"--jobs: found {jobs}; expected runs at a time, 1 or more, or leave it out")
    report = report or (lambda: partial_report(runs, out, title))
    taken = {run.folder for run in runs if _taken(run)}
    waiting = [run for run in runs if run.folder not in taken]
    _tell_taken([run for run in runs if run.folder in taken], console)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running: dict[str, Process] = {}
    slots: dict[str, int] = {}
    crashed: list[str] = []
    next_report = time.monotonic() + REPORT_SECONDS
    table = watch or RunTable([run.folder for run in runs], console)
    with terminated_as_interrupted(), _interrupted_too(running), table:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                slots[run.folder.name] = min(set(range(jobs)) - set(slots.values()))
                start = _start_forked if forked else _start
                running[run.folder.name] = start(run, threads, slots[run.folder.name])
            time.sleep(POLL_SECONDS)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name], slots[name]
                    if process.returncode not in (0, GUARD_STOPPED_EXIT):
                        crashed.append(name)
            table.update()
            if time.monotonic() > next_report:
                began = time.monotonic()
                report()
                spent = time.monotonic() - began
                next_report = time.monotonic() + max(REPORT_SECONDS, 19 * spent)
    for name in crashed:
        console.print(f"[red]{name} crashed[/red]; the end of {out / name / 'log.txt'}:")
        console.print(_tail(out / name / "log.txt"), markup=False, highlight=False)
    return crashed


def default_jobs() -> int:
    """Runs at a time: one a GPU; without one two, which use two cores better than one run does."""
    return torch.cuda.device_count() or min(2, os.cpu_count() or 1)


def partial_report(runs: Sequence[PlannedRun], out: Path, title: str) -> dict | None:
    """Writes the report over the runs that have logged at least one epoch; None if none has."""
    started = [run.folder for run in runs if (run.folder / "epochs.jsonl").exists()]
    if not started:
        return None
    return write_report(started, out, audit=audit_of(started), title=title)


def _taken(run: PlannedRun) -> bool:
    """True if the run need not be trained; InputError if its folder holds another configuration."""
    stored = run.folder / "run.json"
    if stored.exists():
        _check_same(load_config(stored), run.config, run.folder)
    return run.finished


def _check_same(stored: Config, wanted: Config, folder: Path) -> None:
    advice = "Choose another --out, or remove that folder."
    require_same_classes(stored.labels, str(folder), wanted.labels, str(wanted.data.root), advice)
    same_data = dataclasses.replace(wanted.data, labels=stored.data.labels)
    was = dataclasses.asdict(stored)
    now = dataclasses.asdict(dataclasses.replace(wanted, data=same_data))
    if was == now:
        return
    fields = [f"{k}: {was[k]!r} → {now[k]!r}"[:300] for k in now if was[k] != now[k]]
    raise InputError(
        f"{folder} holds a run of another configuration ({'; '.join(fields)}): "
        "choose another --out, or remove that folder"
    )


def _start(run: PlannedRun, threads: int, slot: int) -> Process:
    """The run as a process."""
    config_file = _prepare(run)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "bifusion.cli", "train", str(config_file)]
    with open(run.folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [*command, "--out", str(run.folder), "--resume"],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment | _own_gpu(slot),
        )


def _start_forked(run: PlannedRun, threads: int, slot: int) -> Process:
    """The run as a fork; see `forked_runs`."""
    return start_forked(_prepare(run), run.folder, threads, _own_gpu(slot))


def _prepare(run: PlannedRun) -> Path:
    """The run's folder with its configuration, whose file is returned."""
    run.folder.mkdir(parents=True, exist_ok=True)
    save_config(run.config, run.folder / "run.json")
    return run.folder / "run.json"


def _own_gpu(slot: int) -> dict[str, str]:
    """Runs in different slots use different GPUs, where there are several."""
    if torch.cuda.device_count() > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return {"CUDA_VISIBLE_DEVICES": str(slot % torch.cuda.device_count())}
    return {}


def _tell_taken(runs: Sequence[PlannedRun], console: Console) -> None:
    for run in runs[:NAMED_RUNS]:
        console.print(f"{run.folder.name}: finished before, taken as it is")
    if len(runs) > NAMED_RUNS:
        console.print(f"{len(runs) - NAMED_RUNS} more finished before, taken as they are")


@contextmanager
def _interrupted_too(running: Mapping[str, Process]) -> Iterator[None]:
    """An interruption of the block is passed on to the runs, which are given time to save."""
    try:
        yield
    except KeyboardInterrupt:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        raise


def _tail(path: Path, lines: int = 25) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
