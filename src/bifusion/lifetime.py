"""Processes that end with the one that started them, however that ends: SIGKILL leaves no orphan.

A process of `multiprocessing` holds one end of a pipe whose other end its parent has, whatever way it
was started; one of `subprocess` gets such a pipe as its standard input (`lifeline`). The system closes
the parent's end when the parent is gone, and the child ends as if killed too: nothing that the product
writes suffers by that. Linux kills it at once; elsewhere a thread does, as soon as Python lets it run.
How a process came to an end is said here too, and Ctrl-C kept from one that only starts.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOOK_SECONDS = 0.5
"""How often a process looks whether its parent is still there, where the pipe does not wake it."""


class Parent:
    """The process that started this one of `multiprocessing`; RuntimeError where none did."""

    def __init__(self) -> None:
        recorded = multiprocessing.parent_process()
        if recorded is None or recorded.pid is None:
            raise RuntimeError("this process was not started by multiprocessing")
        self.pid = recorded.pid
        self.above = os.getppid()
        """The process that this one was forked from: the parent, or a fork server."""
        self._recorded = recorded
        self.pipe = int(recorded.sentinel)
        """Descriptor of the end of the pipe that this process has."""

    def is_there(self) -> bool:
        """Whether it still runs.

        Forks that were made later hold its end of the pipe too; those are told by their parent's number.
        """
        return (self.above != self.pid or os.getppid() == self.pid) and self._recorded.is_alive()

    def wait(self, seconds: float) -> None:
        """Returns when it has ended, or after `seconds`."""
        self._recorded.join(seconds)


def end_with_parent() -> None:
    """Ends this process of `multiprocessing` as soon as the one that started it has ended."""
    parent = Parent()
    be_killed_at_end_of(parent.pipe)

    def follow() -> None:
        while parent.is_there():
            parent.wait(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def how_it_ended(code: int) -> str:
    """ "was killed by SIGKILL", "ended with status 1": what an exit code says, the negative number of a
    signal where one ended the process."""
    killed_by = signal_of(code)
    return f"ended with status {code}" if killed_by is None else f"was killed by {killed_by}"


def signal_of(code: int) -> str | None:
    """The name of the signal that an exit code tells of, "signal 99" for one without; None: of none."""
    if code >= 0:
        return None
    named = {number.value: number.name for number in signal.Signals}
    return named.get(-code, f"signal {-code}")


@contextmanager
def ctrl_c_blocked() -> Iterator[None]:
    """A process or fork server that is started in the block never gets a terminal's Ctrl-C, not even as
    it imports, nor do forks of that server unless they let it through; this one gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # started with the first process, it would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def lifeline() -> Iterator[int]:
    """A descriptor for the standard input of processes that are to end with this one, or with the block.

    They are `under_lifeline`; nothing is ever written to it.
    """
    reader, writer = os.pipe()
    try:
        yield reader
    finally:
        os.close(writer)
        os.close(reader)


def under_lifeline(module: str) -> list[str]:
    """The command that runs `python -m module`, to which arguments are added, and ends when its standard
    input does."""
    return [sys.executable, "-m", "bifusion.lifetime", module]


def be_killed_at_end_of(pipe: int) -> None:
    """Has the system kill this process when the other end of a pipe is closed, where it can (Linux)."""
    if fcntl is None or not hasattr(fcntl, "F_SETSIG"):
        return
    with suppress(OSError):  # no /proc: the thread is left
        own = os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY)  # who is to be told is kept by opened file
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC)


def _end_with_input() -> None:
    be_killed_at_end_of(0)

    def follow() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would be in the way at the end of Python
            pass
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def main(args: Sequence[str]) -> None:
    """Runs the module that the first argument names with the others."""
    _end_with_input()
    sys.argv = list(args)
    runpy.run_module(args[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
