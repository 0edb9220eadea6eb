"""Runs as forks of one process that has imported everything.

A comparison of hundreds of runs of seconds would spend half its time on imports. Every run is still a
process of its own: one that crashes takes no other with it.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from bifusion.config.run import load_config
from bifusion.errors import InputError
from bifusion.inference.train_and_evaluate import train_and_evaluate
from bifusion.lifetime import ctrl_c_blocked, end_with_parent
from bifusion.runs.run_folder import RunFolder

PRELOADED = ["bifusion.studies.training_runs.forked", "torch.utils.tensorboard"]
"""What a run needs; the last one is imported late and slow to import."""


class ForkedRun:
    """A run in a forked process, with what `subprocess.Popen` offers of a process."""

    def __init__(self, process: BaseProcess):
        self._process = process

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative where a signal ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Raises subprocess.TimeoutExpired where it has not ended after `timeout` seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()


def can_fork() -> bool:
    """Whether this system can; where it cannot, runs are started one by one."""
    return "forkserver" in multiprocessing.get_all_start_methods()


def start_forked(
    config_file: Path,
    folder: Path,
    threads: int,
    environment: dict[str, str],
    *,
    accept_changes: bool = False,
) -> ForkedRun:
    """Trains and evaluates the configuration in `folder`, going on where it was; exit status 0 if that
    came to an end, be it that its guard stopped it, 130 after an interruption.

    Its checkpoints are removed at the end: hundreds of runs would fill a disk. What it prints goes to
    log.txt. `environment` is added to its own.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    arguments = (config_file, folder, threads, environment, accept_changes)
    process = context.Process(target=_run, args=arguments, name=folder.name)
    with ctrl_c_blocked():  # the first one waits for the server's imports
        process.start()
    return ForkedRun(process)


def _run(
    config_file: Path, folder: Path, threads: int, environment: dict[str, str], accept_changes: bool
) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    with open(folder / "log.txt", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(threads)
    try:
        config = load_config(config_file)
        run = train_and_evaluate(config, folder, resume=True, accept_changes=accept_changes)
    except InputError as error:
        print(f"bifusion: {error}", file=sys.stderr)
        sys.exit(2)
    if run.status.state == "interrupted":
        sys.exit(130)
    shutil.rmtree(RunFolder(folder).checkpoints)
