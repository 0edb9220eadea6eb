"""Kills runs with SIGKILL at random points, resumes them, and compares with a run never killed.

    python tools/resume_test.py [--runs 100] [--seed 0] [--jobs 2]

Every run trains a tiny model on a few tiny rooms, is killed one to four times, some of them while a
checkpoint is written, and resumed to its end. Compared to the bit are weights, training state
(optimiser, guard, rules, clipping, healthy state, progress) and every recorded figure but clock and
memory. Half of the runs meet faults on the way, so that there is a rollback to repeat. Exit status 1
on any difference, where more is lost than one interval between checkpoints, or where too few kills
hit a save.

Each attempt is a process forked from one that has imported everything: most of the time of so short
a run would go into the import. One reference run is made by a fresh interpreter, to show that this
changes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # forked processes must not look for threads that are not there
    os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from bifusion.config.run import Config, save_config
from bifusion.runs.checkpoint import HEALTHY, TRAINING_STATE, WEIGHTS, load_training_state
from bifusion.step.step import Stepper
from bifusion.training.train import train
from tiny_runs import make_tiny_data, tiny_config

SAVE_EVERY = 2
"""Optimiser steps between checkpoints."""
FAULTY_STEPS = (2, 5, 6, 7, 10)
"""One that is skipped; three in a row, which roll the run back; one while rates ramp up again."""
SAVING = (".step-*.writing-*", ".*.removing-*")
"""Checkpoints half-written or half-removed; the healthy state's file is there all the time."""
CLOCK = ("seconds", "epoch_seconds", "peak_memory_mb")
"""What differs from run to run."""
WANTED_IN_SAVE = 0.3
"""Share of kills that are to hit a save."""
POLL_SECONDS = 0.001
LIMIT_SECONDS = 120.0
"""No attempt takes so long."""


@dataclass(frozen=True)
class Plan:
    """One run to be killed."""

    number: int
    seed: int
    workers: int
    faults: bool


@dataclass
class Outcome:
    """What became of one."""

    plan: Plan
    kills: int = 0
    in_save: int = 0
    """Kills that left traces of a save on disk."""
    lost: int = 0
    """Most recorded steps that had to be repeated after a kill."""
    differences: list[str] = field(default_factory=list)


def make_config(data: Path, workers: int = 0) -> Config:
    """Three stages, four steps each, a room a step."""
    config = tiny_config("bifusion_small", data)
    config.trainer = dataclasses.replace(
        config.trainer, batch_size=1, workers=workers, save_every=SAVE_EVERY, eval_every=2
    )
    config.trainer.guard.ramp_steps = 4
    config.trainer.guard.healthy_every = 4
    return config


# ------------------------------------------------------------------------------------- one attempt


def start(config: Config, run: Path, faults: bool) -> int:
    """Trains in a forked process, from where the run stands; returns the process's number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(run.with_suffix(".log"), "ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if faults:
            poison_steps()
        train(config, run, resume=True)
        status = 0
    finally:
        if status:
            traceback.print_exc()  # the fork leaves without Python's own report
        sys.stdout.flush()
        os._exit(status)


def poison_steps() -> None:
    """Makes the batches of some steps non-finite, in this process."""
    compute = Stepper.compute

    def poisoned(self: Stepper, inputs: Any, state: Any, **others: Any) -> Any:
        if inputs.step in FAULTY_STEPS:
            bad = [
                dataclasses.replace(batch, voxel_feats=batch.voxel_feats * torch.nan)
                for batch in inputs.batches
            ]
            inputs = dataclasses.replace(inputs, batches=bad)
        return compute(self, inputs, state, **others)

    Stepper.compute = poisoned


def ended(child: int) -> bool:
    """The process has come to its end by itself; RuntimeError if that was a failure."""
    number, status = os.waitpid(child, os.WNOHANG)
    if number and status:
        raise RuntimeError(f"a run ended with status {os.waitstatus_to_exitcode(status)}")
    return bool(number)


def wait_for(child: int, condition: Callable[[], bool], pause: float = POLL_SECONDS) -> bool:
    """True when the condition holds, False when the process has ended before."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if ended(child):
            return False
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            raise RuntimeError(f"a run took more than {LIMIT_SECONDS:g} s")
        time.sleep(pause)
    return True


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


# --------------------------------------------------------------------------------------- on disk


def saving(run: Path) -> str | None:
    """Name of the half-written checkpoint; None where none is being written."""
    found = (run / "checkpoints").glob(SAVING[0])
    return next((path.name for path in found), None)


def traces_of_a_save(run: Path) -> bool:
    """A checkpoint is half-written, complete but not linked yet, or half-removed."""
    checkpoints = run / "checkpoints"
    linked = {path.resolve() for path in checkpoints.glob("*") if path.is_symlink()}
    whole = {path.resolve() for path in checkpoints.glob("step-*")}
    return bool(whole - linked) or any(any(checkpoints.glob(p)) for p in SAVING)


def recorded_steps(run: Path) -> int:
    path = run / "steps.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saved_steps(run: Path) -> int:
    last = run / "checkpoints" / "last"
    return load_training_state(last)["progress"]["step"] if last.is_dir() else 0


# ---------------------------------------------------------------------------------------- one run


def torture(plan: Plan, data: Path, root: Path, save_seconds: float) -> Outcome:
    """Kills and resumes one run as `plan` says, and compares it with the reference."""
    rng = random.Random(f"{plan.seed} {plan.number}")
    run, config = root / f"run{plan.number}", make_config(data, plan.workers)
    outcome = Outcome(plan)
    total = len(read_lines(reference_of(root, plan.faults) / "steps.jsonl"))
    wanted = rng.randint(1, 4)
    while outcome.kills < wanted:
        child = start(config, run, plan.faults)
        if not strike(rng, child, run, total, save_seconds):
            if outcome.kills:
                break
            shutil.rmtree(run)  # it came to its end unharmed: once more
            continue
        outcome.kills += 1
        outcome.in_save += traces_of_a_save(run)
        outcome.lost = max(outcome.lost, recorded_steps(run) - saved_steps(run))
    child = start(config, run, plan.faults)
    wait_for(child, lambda: False, pause=0.02)
    outcome.differences = list(differences(run, reference_of(root, plan.faults)))
    if not outcome.differences:
        shutil.rmtree(run)
    return outcome


def strike(rng: random.Random, child: int, run: Path, total: int, save_seconds: float) -> bool:
    """Kills the process at a random point, in a save or anywhere; False if it ended before."""
    if rng.random() < 0.6:
        for _ in range(rng.randint(1, 4)):
            before = saving(run)
            if not wait_for(child, lambda before=before: saving(run) not in (None, before)):
                return False
        time.sleep(rng.uniform(0, save_seconds))
    else:
        target = rng.randint(min(recorded_steps(run), total - 1), total - 1)
        if not wait_for(child, lambda: recorded_steps(run) >= target):
            return False
        time.sleep(rng.uniform(0, 0.1))
    if ended(child):
        return False
    kill(child)
    return True


# -------------------------------------------------------------------------------------- comparing


def differences(run: Path, reference: Path) -> Iterator[str]:
    """What is not as in the reference, to the bit."""
    for link in ("last", "best"):
        ours, theirs = run / "checkpoints" / link, reference / "checkpoints" / link
        if ours.resolve().name.split("-")[1] != theirs.resolve().name.split("-")[1]:
            yield f"{link} is {ours.resolve().name} instead of {theirs.resolve().name}"
            continue
        yield from unequal(load_file(ours / WEIGHTS), load_file(theirs / WEIGHTS), f"{link} weights")
        for name in (TRAINING_STATE, HEALTHY):
            states = (read_state(folder / name) for folder in (ours, theirs))
            yield from unequal(*states, f"{link} {name}")
    for name in ("steps.jsonl", "epochs.jsonl"):
        yield from unequal(read_lines(run / name), read_lines(reference / name), name)
    name = "status.json"
    yield from unequal(*(json.loads((folder / name).read_text()) for folder in (run, reference)), name)
    if traces_of_a_save(run):
        yield "something half-written is left"


def read_state(path: Path) -> Any:
    """Nested tensors and numbers; None where there is no such file."""
    return torch.load(path, weights_only=True) if path.exists() else None


def unequal(ours: Any, theirs: Any, where: str) -> Iterator[str]:
    """Places in nested values that differ, but for clock and memory."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() | theirs.keys():
            if key not in CLOCK:
                yield from unequal(ours.get(key), theirs.get(key), f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from unequal(mine, other, f"{where}[{index}]")
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if not same or ours.numpy().tobytes() != theirs.numpy().tobytes():
            yield where
    elif type(ours) is not type(theirs) or repr(ours) != repr(theirs):
        yield f"{where}: {ours!r} instead of {theirs!r}"[:200]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------------------------------- all runs


def reference_of(root: Path, faults: bool) -> Path:
    return root / ("reference-faults" if faults else "reference")


def make_references(data: Path, root: Path) -> float:
    """Runs left alone, with faults and without; returns how long a save takes, in seconds."""
    config = make_config(data)
    spans: list[float] = []
    for faults in (False, True):
        run = reference_of(root, faults)
        child = start(config, run, faults)
        while wait_for(child, lambda run=run: saving(run) is not None):
            began = time.monotonic()
            wait_for(child, lambda run=run: not traces_of_a_save(run))
            spans.append(time.monotonic() - began)
    return sorted(spans)[len(spans) // 2]


def rolled_back(root: Path) -> list[str]:
    """What the reference with faults lacks for this test to mean something."""
    status = json.loads((reference_of(root, True) / "status.json").read_text())
    return [] if status["rollbacks"] and status["skipped"] > 3 else ["the faults led to no rollback"]


def fresh_interpreter_differs(data: Path, root: Path) -> list[str]:
    """The reference compared with the same run made by the command line."""
    run, described = root / "fresh", root / "run.json"
    save_config(make_config(data), described)
    command = ["-m", "bifusion.cli", "train", str(described), "--out", str(run)]
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return [f"fresh interpreter: {where}" for where in differences(run, reference_of(root, False))]


def report(outcomes: list[Outcome], console: Console) -> None:
    table = Table("workers", "faults", "runs", "kills", "in a save", "steps repeated", "identical")
    groups = sorted({(o.plan.workers, o.plan.faults) for o in outcomes})
    for workers, faults in [*groups, (None, None)]:
        mine = [
            o
            for o in outcomes
            if workers is None or (o.plan.workers, o.plan.faults) == (workers, faults)
        ]
        kills, in_save = sum(o.kills for o in mine), sum(o.in_save for o in mine)
        table.add_row(
            "all" if workers is None else str(workers),
            "" if faults is None else "yes" if faults else "no",
            str(len(mine)),
            str(kills),
            f"{in_save} ({in_save / max(kills, 1):.0%})",
            f"at most {max(o.lost for o in mine)}",
            f"{sum(not o.differences for o in mine)} of {len(mine)}",
        )
    console.print(table)


def problems_of(outcomes: list[Outcome]) -> list[str]:
    """Why the test has failed."""
    problems = [f"run {o.plan.number}: {where}" for o in outcomes for where in o.differences]
    kills, in_save = sum(o.kills for o in outcomes), sum(o.in_save for o in outcomes)
    if len(outcomes) >= 20 and in_save < WANTED_IN_SAVE * kills:
        problems.append(f"only {in_save} of {kills} kills hit a save; {WANTED_IN_SAVE:.0%} are wanted")
    lost = max(o.lost for o in outcomes)
    if lost > SAVE_EVERY:
        problems.append(f"{lost} steps were lost at a kill, more than the {SAVE_EVERY} of an interval")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    console, began = Console(), time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="resume-test-"))
    data = make_tiny_data(root / "rooms", train=4, val=1)
    save_seconds = make_references(data, root)
    problems = fresh_interpreter_differs(data, root) + rolled_back(root)
    console.print(f"{root}: rooms and references made; a save takes {save_seconds * 1000:.0f} ms")
    plans = [Plan(i, wanted.seed, (0, 2)[i % 2], i // 2 % 2 == 1) for i in range(wanted.runs)]
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(wanted.jobs, mp_context=get_context("fork")) as pool:
        running = [pool.submit(torture, plan, data, root, save_seconds) for plan in plans]
        for done, future in enumerate(running, 1):
            outcomes.append(future.result())
            if done % max(1, wanted.runs // 5) == 0:
                console.print(f"{done} of {wanted.runs} runs, {time.monotonic() - began:.0f} s")
    report(outcomes, console)
    problems += problems_of(outcomes)
    for problem in problems[:20]:
        console.print(problem, markup=False, highlight=False)
    if problems:
        console.print(f"{len(problems)} problems; the runs are in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
