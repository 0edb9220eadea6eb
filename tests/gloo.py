"""Starts a script of the tests as several processes that know of each other, as torchrun would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def run_processes(count: int, script: str, *args: object, seconds: float = 240) -> list[str]:
    """Runs tests/`script` with `args` in `count` processes; what each wrote to stdout.

    Fails with what they wrote to stderr where one ends otherwise than with 0, and ends the others.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, str(TESTS / script), *map(str, args)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=seconds) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    failed = [f"process {k}:\n{told[k][1]}" for k, process in enumerate(started) if process.returncode]
    assert not failed, "\n".join(failed)
    return [out for out, _ in told]
