"""Processes by their number, as Linux's /proc tells of them.

Without pathlib, which has Python remember each part of a path: a process that looks often would fill
that table, and double it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    return _fields(pid)[0] not in ("", "Z", "X")


def of_session(session: int) -> list[int]:
    """Running processes of a session: all that one which began it has started, directly or not."""
    return [pid for pid in _all() if _session(pid) == session and is_running(pid)]


def children(pid: int) -> list[int]:
    """Running processes whose parent is `pid`."""
    parents = {number: _fields(number)[1:2] for number in _all()}
    return [number for number, above in parents.items() if above == [str(pid)] and is_running(number)]


def left_running(pids: Iterable[int], seconds: float) -> list[int]:
    """Those that still run after so long, or none as soon as all have ended; they are killed then."""
    deadline, left = time.monotonic() + seconds, list(pids)
    while (left := [pid for pid in left if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _session(pid: int) -> int:
    fields = _fields(pid)
    return int(fields[3]) if len(fields) > 3 else -1


def _fields(pid: int) -> list[str]:
    """State, parent, group, session, ... of a process; one empty field where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return [""]
