"""What makes commands in processes of their own, and studies of generated rooms, short for a test.

A fresh process imports for seconds what a run of a second needs. Here commands are forks of one process
that has imported everything and run nothing, `multiprocessing`'s fork server: one for all tests of a
session. That commands work in fresh processes, as users start them, is shown by tests of resuming, of
replay and of recipes from outside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import SimpleNamespace
from typing import IO, Any

import torch

from bifusion import cli
from bifusion.datasets.rooms import RoomsConfig
from bifusion.lifetime import under_lifeline
from bifusion.studies.training_runs.forked import PRELOADED, ForkedRun

WAYS = (under_lifeline("bifusion.cli"), [sys.executable, "-m", "bifusion.cli"])
"""How the command line is called."""


class ForkedCommand(ForkedRun):
    """A command in a forked process, which heads a session."""

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid


def start_command(
    arguments: Sequence[object], log: Path, environment: Mapping[str, str] | None = None
) -> ForkedCommand:
    """`bifusion ARGUMENTS` in this process's folder and environment, or another one; what it prints is
    added to `log`."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # conftest.py makes it more
    words = [str(argument) for argument in arguments]
    variables = dict(os.environ if environment is None else environment)
    process = context.Process(target=_command, args=(words, log, variables, os.getcwd()))
    process.start()
    return ForkedCommand(process)


def _popen(command: Sequence[str], stdout: IO[bytes], env: Mapping[str, str], **_: Any) -> ForkedCommand:
    return start_command(_arguments(command), Path(stdout.name), env)


def _run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
    with NamedTemporaryFile() as log:
        status = start_command(_arguments(command), Path(log.name)).wait(600)
        return subprocess.CompletedProcess(command, status, log.read().decode(), "")


def _arguments(command: Sequence[str]) -> Sequence[str]:
    way = next(way for way in WAYS if list(command[: len(way)]) == way)
    return command[len(way) :]


subprocesses = SimpleNamespace(
    Popen=_popen, run=_run, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired
)
"""In place of `subprocess` in a module that starts the command line with it."""


def small_rooms(count: int, **others: Any) -> RoomsConfig:
    """As many rooms to train on, one to validate on; a quarter of the pixels of the usual ones."""
    return RoomsConfig(
        train_rooms=count,
        val_rooms=1,
        views=2,
        point_spacing_m=0.08,
        image_size=(160, 120),
        depth_size=(120, 90),
        **others,
    )


def small_pretraining_rooms(count: int) -> RoomsConfig:
    """In place of `RoomsConfig.for_pretraining`."""
    return small_rooms(count, stream="pretraining")


def _command(arguments: list[str], log: Path, environment: Mapping[str, str], folder: str) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the server's may be blocked
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", 1)))
    cli.main(arguments)
