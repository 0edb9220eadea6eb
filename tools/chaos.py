"""Faults, kills, dead workers and full disks, all together, for a given time.

    python tools/chaos.py [--minutes 30] [--seed 0]

Each round is a command that is disturbed one to four times, each time otherwise: killed; asked to end
(SIGTERM); one of the processes that it has started killed; or left with files that may not grow, as on a
full disk. Trainings meet non-finite batches besides, at steps that are always the same. Then the command
is repeated to its end, and what it leaves is compared, to the bit, with what one leaves that nothing
disturbed. No process, half-written file or traceback may be left. Exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # forked processes must not look for threads that are not there
    os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from kill_trial import QUICK, Ground, Setup, make_ground
from killing import GONE_SECONDS, differences, finish, left_behind, start
from resume_test import kill, poison_steps
from rich.console import Console
from rich.table import Table

from left_processes import left_running, of_session

COMMANDS = tuple(name for name in QUICK if name.startswith(("train", "prepare", "export", "evaluate")))
"""What takes long enough to be met on its way."""
MOST_DISTURBANCES = 4
STATUSES = (0, 1, 2, 130)
"""Of a command that came to its end, be it that it was disturbed."""
FILE_SIZES = (20_000, 400_000)
"""Bytes that a file may have where the disk is full."""


@dataclass(frozen=True)
class Disturbance:
    """What is done to a command on its way."""

    before: Callable[[random.Random], object] = lambda rng: None
    """In its process, first."""
    strike: Callable[[random.Random, int], object] = lambda rng, child: None
    """From outside, after a while."""


def small_files(rng: random.Random) -> None:
    """From here on files of this process and its children may not grow beyond some size."""
    limit = rng.randint(*FILE_SIZES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def kill_a_child(rng: random.Random, child: int) -> None:
    """Kills one of the processes that the command has started, if there are any."""
    others = [pid for pid in of_session(child) if pid != child]
    if others:
        os.kill(rng.choice(others), signal.SIGKILL)


DISTURBANCES = {
    "killed": Disturbance(strike=lambda rng, child: kill(child)),
    "asked to end": Disturbance(strike=lambda rng, child: os.kill(child, signal.SIGTERM)),
    "child killed": Disturbance(strike=kill_a_child),
    "disk full": Disturbance(before=small_files),
}


def disturb(
    rng: random.Random, kind: str, arguments: list[str], place: Path, seconds: float, faults: bool
) -> list[str]:
    """Runs a command and disturbs it within the `seconds` that it takes; what was wrong."""
    what = DISTURBANCES[kind]

    def before() -> None:
        if faults:
            poison_steps()
        what.before(rng)

    end = time.monotonic() + rng.uniform(0.0, seconds)
    child = start(arguments, place, before)
    while time.monotonic() < end and not has_ended(child):
        time.sleep(0.01)
    is_met = not has_ended(child)
    if is_met:
        what.strike(rng, child)
    is_killed = is_met and kind == "killed"
    status = 0 if is_killed else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = left_running(of_session(child), GONE_SECONDS)
    wrong = [f"{kind}: process {pid} outlived it" for pid in left]
    said = (place / "said").read_text(errors="replace")
    is_unheard = status == -signal.SIGTERM and not said  # asked before it listens
    if status not in STATUSES and not is_unheard:
        wrong.append(f"{kind}: ended with status {status}: {said[-300:]}")
    if "Traceback" in said and not is_killed:
        wrong.append(f"{kind}: left a traceback: {said[-300:]}")
    return wrong


def has_ended(child: int) -> bool:
    """Whether a child process, whose end nobody has looked at, has come to it."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def play_round(
    number: int, seed: int, ground: Ground, alone: dict[str, tuple[Path, float]], counts: Counter[str]
) -> list[str]:
    """One command, disturbed and repeated; what was wrong with what it left."""
    rng = random.Random(f"{seed} {number}")
    name = rng.choice(COMMANDS)
    faults, place = name.startswith("train"), ground.root / f"round{number}"
    reference, seconds = undisturbed(name, QUICK[name], ground, alone, faults)
    place.mkdir()
    arguments, wrong = QUICK[name](ground, place), []
    for _ in range(rng.randint(1, MOST_DISTURBANCES)):
        kind = rng.choice(list(DISTURBANCES))
        counts[kind] += 1
        wrong += disturb(rng, kind, arguments, place, seconds, faults)
    ended = finish(arguments, place, poison_steps if faults else lambda: None)
    if ended.status:
        text = (place / "said").read_text(errors="replace")
        wrong.append(f"repeated it ended with status {ended.status}: {text[-300:]}")
    wrong += [f"{left} is left" for left in left_behind(place)]
    wrong += differences(place, reference)
    if not wrong:
        shutil.rmtree(place)
    return [f"round {number}, {name}: {what}" for what in wrong]


def undisturbed(
    name: str, set_up: Setup, ground: Ground, alone: dict[str, tuple[Path, float]], faults: bool
) -> tuple[Path, float]:
    """Where a call left alone is, made at its first use, and the seconds that it took."""
    if name not in alone:
        place = ground.root / f"alone{len(alone)}"
        place.mkdir()
        ended = finish(set_up(ground, place), place, poison_steps if faults else lambda: None)
        if ended.status:
            raise RuntimeError(f"{name}: undisturbed it ended with status {ended.status}; see {place}")
        alone[name] = place, ended.seconds
    return alone[name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    console, end = Console(), time.monotonic() + 60 * wanted.minutes
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    ground, counts = make_ground(root), Counter[str]()
    alone: dict[str, tuple[Path, float]] = {}
    wrong: list[str] = []
    rounds = 0
    while time.monotonic() < end:
        wrong += play_round(rounds, wanted.seed, ground, alone, counts)
        rounds += 1
    table = Table("rounds", "commands", *counts, "wrong")
    table.add_row(str(rounds), str(len(alone)), *map(str, counts.values()), str(len(wrong)))
    console.print(table)
    for what in wrong[:20]:
        console.print(what, markup=False, highlight=False)
    if wrong:
        console.print(f"the folders are in {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
