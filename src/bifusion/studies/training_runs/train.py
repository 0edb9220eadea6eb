"""Trains the runs of a study side by side.

Every run is a process of its own (`bifusion train CONFIG`), so that one that crashes takes no other
with it, and two of them use two cores better than one does. The parent only reads run folders.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from rich.console import Console
from rich.markup import escape

from bifusion.config.run import load_config, save_config
from bifusion.errors import InputError, listing
from bifusion.lifetime import lifeline, under_lifeline
from bifusion.runs.run_folder import GUARD_STOPPED_EXIT, RunFolder
from bifusion.runs.same_run import check_same_run
from bifusion.studies.figures.terminal import some_of
from bifusion.studies.training_runs.forked import start_forked
from bifusion.studies.training_runs.plan import PlannedRun
from bifusion.studies.training_runs.progress import RunTable
from bifusion.training.signals import terminated_as_interrupted

POLL_SECONDS = 0.25
REPORT_SECONDS = 60.0
"""A partial report at most this often, and never in more than a twentieth of the time."""
STOP_SECONDS = 30.0
ANOTHER_FOLDER = "Choose another --out, or remove that folder."
NAMED_RUNS = 30
"""Finished runs that are named one by one."""


@runtime_checkable
class Process(Protocol):
    """A run in progress, as `subprocess.Popen` and `forked.ForkedRun` are."""

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


@runtime_checkable
class Watch(Protocol):
    """Shows what runs have written since it was last asked to, and which crashed; a context manager."""

    def __enter__(self) -> Watch: ...
    def __exit__(self, *error: object) -> None: ...
    def update(self, crashed: Sequence[Path] = ()) -> None: ...


def check_jobs(jobs: int) -> None:
    """InputError unless it is a number of runs at a time."""
    if jobs < 1:
        raise InputError(f"--jobs: found {jobs}; expected runs at a time, 1 or more, or leave it out")


def check_out(out: Path) -> None:
    """InputError where the folder of many runs is that of one."""
    there = RunFolder(out)
    if there.config.is_file() and (there.status.is_file() or there.checkpoints.is_dir()):
        raise InputError(
            f"{out}: is a run's folder; expected one to hold several runs, a folder each: name another "
            "(--out)"
        )


def require_result(complete: Sequence[object], crashed: Sequence[str], out: Path) -> None:
    """InputError where no run is `complete`, naming those that crashed."""
    if not complete:
        raise InputError(
            f"{listing(crashed)}: all runs crashed, so there is nothing to report; the log.txt of each "
            f"in {out} says why, and the same command starts them again"
        )


def train_runs(
    runs: Sequence[PlannedRun],
    *,
    jobs: int,
    console: Console,
    report: Callable[[], object],
    watch: Watch | None = None,
    forked: bool = False,
    accept_changes: bool = False,
) -> list[str]:
    """Trains and evaluates every run that is not finished yet, `jobs` at a time.

    `report` shows what there is so far and is called now and then; `watch` shows progress, by default
    a table of all runs; `forked`: runs of seconds, which are forks of one process and keep no
    checkpoint; `accept_changes`: scenes and versions may be others than when a run was begun.

    Returns the names of the runs that crashed; the others are complete. A run stopped by its guard
    is complete: that is a result, and so is one whose process failed after its evaluation was written.
    Interrupted, it passes the signal on, waits for the runs to save, and raises KeyboardInterrupt; the
    same call then goes on where it was.
    """
    check_jobs(jobs)
    taken = {run.folder for run in runs if _taken(run, accept_changes)}
    for checkpoints in (RunFolder(folder).checkpoints for folder in taken if forked):
        if checkpoints.exists():  # the run was killed as it removed them
            shutil.rmtree(checkpoints)
    _tell_taken([run for run in runs if run.folder in taken], console)
    waiting = [run for run in runs if run.folder not in taken]
    table = watch or RunTable([run.folder for run in runs], console)
    with lifeline() as line:
        start = partial(_start_forked if forked else _start, line, accept_changes)
        crashed = _side_by_side(waiting, jobs, start, table, report)
    done = {run.folder for run in runs if run.folder in crashed and run.finished}
    crashed = [folder for folder in crashed if folder not in done]
    _tell_crashed(crashed, console)
    return [folder.name for folder in crashed]


def _side_by_side(
    waiting: list[PlannedRun],
    jobs: int,
    start: Callable[[PlannedRun, int, int], Process],
    table: Watch,
    report: Callable[[], object],
) -> list[Path]:
    """Keeps `jobs` runs going until none waits; folders of those that crashed."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running: dict[Path, Process] = {}
    slots: dict[Path, int] = {}
    crashed: list[Path] = []
    next_report = time.monotonic() + REPORT_SECONDS
    with terminated_as_interrupted(), _interrupted_too(running), table:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                slots[run.folder] = min(set(range(jobs)) - set(slots.values()))
                running[run.folder] = start(run, threads, slots[run.folder])
            time.sleep(POLL_SECONDS)
            for folder, process in list(running.items()):
                if process.poll() is not None:
                    del running[folder], slots[folder]
                    if process.returncode not in (0, GUARD_STOPPED_EXIT):
                        crashed.append(folder)
            table.update(crashed)
            if time.monotonic() > next_report:
                next_report = _reported(report)
    return crashed


def _reported(report: Callable[[], object]) -> float:
    """Calls `report`; when it is due again."""
    began = time.monotonic()
    report()
    ended = time.monotonic()
    return ended + max(REPORT_SECONDS, 19 * (ended - began))


def _taken(run: PlannedRun, accept: bool) -> bool:
    """True if the run need not be trained; InputError if its folder holds another configuration."""
    stored = run.folder / "run.json"
    if stored.exists():
        folder, started = RunFolder(run.folder), load_config(stored)
        check_same_run(folder, started, run.config, advice=ANOTHER_FOLDER, accept=accept)
    return run.finished


def _start(line: int, accept: bool, run: PlannedRun, threads: int, slot: int) -> Process:
    """The run as a process, which ends with the one that has the other end of `line`."""
    config_file = _prepare(run)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    command = [*under_lifeline("bifusion.cli"), "train", str(config_file)]
    command += ["--out", str(run.folder), "--resume", *(["--accept-changes"] if accept else [])]
    with open(run.folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=line,
            env=environment | _own_gpu(slot),
        )


def _start_forked(line: int, accept: bool, run: PlannedRun, threads: int, slot: int) -> Process:
    """The run as a fork, which needs no line; see `forked`."""
    return start_forked(_prepare(run), run.folder, threads, _own_gpu(slot), accept_changes=accept)


def _prepare(run: PlannedRun) -> Path:
    """The run's folder with its configuration, whose file is returned."""
    run.folder.mkdir(parents=True, exist_ok=True)
    save_config(run.config, run.folder / "run.json")
    return run.folder / "run.json"


def _own_gpu(slot: int) -> dict[str, str]:
    """Runs in different slots use different GPUs, where there are several; of those that this process
    may see, where a scheduler has chosen them."""
    count = torch.cuda.device_count()
    if count < 2:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = list(map(str, range(count))) if visible is None else visible.split(",")[:count]
    return {"CUDA_VISIBLE_DEVICES": chosen[slot % count].strip()}


def _tell_taken(runs: Sequence[PlannedRun], console: Console) -> None:
    for run in runs[:NAMED_RUNS]:
        console.print(f"{run.folder.name}: finished before, taken as it is", markup=False)
    if len(runs) > NAMED_RUNS:
        console.print(f"{len(runs) - NAMED_RUNS} more finished before, taken as they are")


@contextmanager
def _interrupted_too(running: Mapping[Path, Process]) -> Iterator[None]:
    """What interrupts the block, an error included, interrupts the runs; they are given time to save."""
    try:
        yield
    finally:  # none runs where the block has ended well
        for process in running.values() if os.name == "posix" else ():  # a console of Windows did that
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for process in running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def _tell_crashed(folders: Sequence[Path], console: Console) -> None:
    """What ended the runs that crashed; what ended several of them once."""
    by_end: dict[str, list[Path]] = {}
    for folder in folders:
        by_end.setdefault(_end(folder / "log.txt"), []).append(folder)
    for end, of in by_end.items():
        names, log = some_of([folder.name for folder in of]), escape(str(of[0] / "log.txt"))
        console.print(f"[red]{names} crashed[/red]; the end of {log}:")
        console.print(end, markup=False, highlight=False)


def _end(path: Path, lines: int = 25) -> str:
    """The last lines of a log; of a run that was refused, what it was told."""
    last = path.read_text(errors="replace").splitlines()[-lines:]
    told = [number for number, line in enumerate(last) if line.startswith("bifusion: ")]
    return "\n".join(last[told[-1] :] if told else last)
