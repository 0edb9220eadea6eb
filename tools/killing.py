"""Commands in processes of their own that are killed at random moments, and what must hold then.

Shared by `kill_trial.py` and `chaos.py`. A command runs in a fork of a process that has imported
everything, as the head of a session: all that it starts, however, is of that session.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from resume_test import CLOCK, kill, read_lines, unequal
from safetensors.torch import load_file

from bifusion import cli
from left_processes import left_running, of_session

SHARED = Path("/dev/shm")
GONE_SECONDS = 60.0
"""All that a killed command has started ends within this time; what still imports may take seconds."""
LIMIT_SECONDS = 1800.0
THERE = "holds something already"
"""What `import-checkpoint` answers where it was killed when all was done; what is there is compared."""
LEFT = re.compile(r"\..+\.(writing|replaced|removing)-\d+")
"""What a killed process leaves half-done, and the next takes up."""
NO_RESULT = re.compile(
    r"(.*/)?(tensorboard|\.tower-cache|__pycache__)/.*|(.*/)?(log\.txt|[^/]*\.lock|said)"
    r"|(.*/)?(report|ablation|sweep|dose)\.html|(.*/)?views/[^/]*\.html"
)
"""Files that tell of the way, not of what came out; reports are compared as JSON."""
VARIABLE = {*CLOCK, "modified_ns", "root", "created"}
"""Keys of what differs from call to call: clock, memory, dates and places."""
TIMED = re.compile(r"[\d.]+ × its time a step")
"""The clock in a sentence of a report."""
TORCH_FILES, STORED_SUMS = (".pt",), "sums.json"


@dataclass(frozen=True)
class Ended:
    """How a command came to its end, by itself."""

    status: int
    seconds: float


def start(arguments: list[str], place: Path, before: Callable[[], object] = lambda: None) -> int:
    """Runs `bifusion ARGUMENTS` in the folder `place`; returns the number of its process.

    What it prints goes to `place`/said. `before` is called in the process first.
    """
    (place / "said").write_bytes(b"")  # by whoever looks: the process may be struck at once
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        os.chdir(place)
        with open("said", "wb", buffering=0) as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        sys.modules["__main__"] = cli  # which spawned processes import too
        before()
        cli.main(arguments)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)


def finish(arguments: list[str], place: Path, before: Callable[[], object] = lambda: None) -> Ended:
    """Runs a command to its end; RuntimeError if that takes too long."""
    child, began = start(arguments, place, before), time.monotonic()
    while time.monotonic() < began + LIMIT_SECONDS:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - began)
        time.sleep(0.01)
    kill(child)
    raise RuntimeError(f"{place}: bifusion {' '.join(arguments)} took more than {LIMIT_SECONDS:g} s")


@dataclass(frozen=True)
class Struck:
    """What a killed command left."""

    orphans: list[int]
    """Processes that did not end; they have been killed."""
    shared: set[str]
    """Pieces of shared memory that it had, by name."""


def strike(arguments: list[str], place: Path, seconds: float) -> Struck | None:
    """Runs a command and kills it after so long; None: it ended before."""
    child = start(arguments, place)
    time.sleep(seconds)
    shared = shared_memory(of_session(child))
    number, _ = os.waitpid(child, os.WNOHANG)
    if number:
        return None
    kill(child)
    return Struck(left_running(of_session(child), GONE_SECONDS), shared)


@dataclass
class Toll:
    """What kills have done."""

    kills: int = 0
    orphans: list[str] = field(default_factory=list)
    """Processes that outlived the command."""
    left: list[str] = field(default_factory=list)
    """What was half-written, and shared memory, that was still there when it had been repeated."""
    wrong: list[str] = field(default_factory=list)
    """Where the repeated command failed, or left something else than one that was left alone."""

    def all(self) -> list[str]:
        return [*self.orphans, *self.left, *self.wrong]

    def add(self, other: Toll, where: str) -> None:
        self.kills += other.kills
        self.orphans += [f"{where}: {one}" for one in other.orphans]
        self.left += [f"{where}: {one}" for one in other.left]
        self.wrong += [f"{where}: {one}" for one in other.wrong]


def kill_and_repeat(
    rng: random.Random, arguments: list[str], place: Path, alone: Path, seconds: float, kills: int
) -> Toll:
    """Kills a command up to `kills` times, then lets it end, and compares what it leaves in `place` with
    what a call has left in `alone` that nothing disturbed, in `seconds`."""
    toll, shared = Toll(), set[str]()
    for _ in range(kills):
        struck = strike(arguments, place, rng.uniform(0.0, seconds))
        if struck is None:
            break
        toll.kills, shared = toll.kills + 1, shared | struck.shared
        toll.orphans += [f"process {pid} outlived it" for pid in struck.orphans]
    ended = finish(arguments, place)
    told = last_words(place)
    if ended.status and not (toll.kills and THERE in told):
        toll.wrong.append(f"repeated it ended with status {ended.status}: {told}")
    toll.left += [f"{left} is left" for left in left_behind(place)]
    toll.left += [f"{name} is left in shared memory" for name in shared if (SHARED / name).exists()]
    toll.wrong += differences(place, alone)
    return toll


def last_words(place: Path) -> str:
    """The end of what a command printed."""
    return " | ".join((place / "said").read_text(errors="replace").splitlines()[-3:])


def left_behind(place: Path) -> list[Path]:
    """Hidden files and folders of what was not finished."""
    return [path.relative_to(place) for path in place.rglob(".*") if LEFT.fullmatch(path.name)]


def shared_memory(pids: list[int]) -> set[str]:
    """Names of the shared memory, semaphores included, that processes have mapped."""
    names = set[str]()
    for pid in pids:
        try:
            names.update(re.findall(rf"{SHARED}/(\S+)", Path(f"/proc/{pid}/maps").read_text()))
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return names


# -------------------------------------------------------------------------------------- comparing


def differences(ours: Path, theirs: Path) -> Iterator[str]:
    """What a command has made in one folder and not, to the bit, in the other."""
    mine, other = results(ours), results(theirs)
    for name in sorted(mine.keys() ^ other.keys()):
        yield f"{name} is {'new' if name in mine else 'missing'}"
    for name in sorted(mine.keys() & other.keys()):
        first, second = mine[name], other[name]
        if first.read_bytes() != second.read_bytes():
            yield from unequal(_content(first, ours), _content(second, theirs), name)


def results(place: Path) -> dict[str, Path]:
    """The files that count, by name; checkpoints by the link that leads to them: how often one was
    saved again is no result."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        in_checkpoint = "checkpoints/" in name
        if path.is_symlink() and path.is_dir():
            for file in path.iterdir():
                if file.name != STORED_SUMS:
                    found[f"{name}/{file.name}"] = file
        elif path.is_file() and not in_checkpoint and not NO_RESULT.fullmatch(name):
            found[name] = path
    return {name: path for name, path in found.items() if "checkpoints/previous/" not in name}


def _content(path: Path, place: Path) -> Any:
    """What is in a file, without what differs from call to call, the `place` included."""
    if path.suffix in TORCH_FILES:
        return _steady(torch.load(path, weights_only=True))
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".jsonl":
        return _steady(read_lines(path))
    if path.suffix == ".json":
        return _steady(json.loads(path.read_text().replace(f"{place}/", "")))
    return path.read_bytes()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in VARIABLE}
    if isinstance(value, list):
        return [_steady(item) for item in value]
    return TIMED.sub("", value) if isinstance(value, str) else value
