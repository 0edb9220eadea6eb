"""SIGINT, SIGTERM and SIGUSR1, a scheduler's warning: when a run heeds them."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

INTERRUPTED_EXIT = 130
TERMINATED_EXIT = 143


class Interrupted(KeyboardInterrupt):
    """A stop was asked for at a point where leaving at once loses nothing that is not repeated.

    Like KeyboardInterrupt it is no Exception, so that nothing on its way takes it for a failure.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM asked for the stop, not Ctrl-C: exit statuses tell them apart."""


def exit_status(error: KeyboardInterrupt) -> int:
    """Of a command that a stop has ended, as a shell has it of one that the signal itself ended."""
    return TERMINATED_EXIT if isinstance(error, Terminated) else INTERRUPTED_EXIT


AGAIN_SECONDS = 0.5
"""After which an interrupt that got lost on its way is raised again."""
ASKING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class StopRequest:
    """SIGINT, SIGTERM, SIGUSR1 ask for a stop, however often they come; who asks again changes nothing.

    Within `at_once` they end the block, elsewhere they wait until somebody looks. Use as a context
    manager; outside the main thread, which alone gets signals, it does nothing.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        """The first signal that came, None before."""
        self._at_once = False
        self._previous: dict = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self, wanted: bool = True) -> Iterator[None]:
        """Within the block a signal raises Interrupted wherever the program stands; an earlier one
        does as the block begins.

        Only for what may be left half-done: reading data, validation, a step before it acts. Not
        `wanted` where other processes would wait for this one.
        """
        if not wanted:
            yield
            return
        self._raise_if_asked()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
        # Where an exception cannot spread, as in a destructor, Python drops it.
        self._raise_if_asked()

    @property
    def own_signal(self) -> str | None:
        """The first signal that came to this process; None where it was told by another one."""
        return self.signal_name if self.signal_name in signal.Signals.__members__ else None

    @property
    def asked(self) -> bool:
        """A signal has come."""
        return self.signal_name is not None

    def heed(self, on_any: Callable[[bool], bool]) -> None:
        """Raises Interrupted if a signal has come, here or, as `on_any` process says, in another one."""
        if on_any(self.asked):
            self.signal_name = self.signal_name or "a signal in another process"
            raise Interrupted

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
        if self._at_once:
            self._at_once = False
            raise Interrupted(self.signal_name)

    def _raise_if_asked(self) -> None:
        if self.signal_name is not None:
            raise Interrupted(self.signal_name)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM raises Terminated, as Ctrl-C KeyboardInterrupt: blocks are left in order, not cut off.

    An exception may get lost on its way: Python drops it in a destructor, after a traceback, and what is
    written in C, as torch is while it is imported, wherever it clears errors. Such a request is silent,
    and made again every AGAIN_SECONDS until the block is left; what is then done in handlers of the
    exception, `finally` and `with` is not interrupted by that. Who drops one may be left with half of
    what he was at, as a library of which a part was not imported: an error after it is of the stop.
    """
    left = threading.Event()
    handlers: dict[int, Any] = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not what somebody else chose
        handlers[signal.SIGINT] = signal.default_int_handler
    first: type[KeyboardInterrupt] | None = None
    reminded = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal first, reminded
        again, reminded = reminded, False
        if first is None:
            first = Terminated if number == signal.SIGTERM else KeyboardInterrupt
            with suppress(RuntimeError):  # no further thread: nothing reminds
                _thread.start_new_thread(remind, ())  # threading's would wait here until it runs
        if not (again and _is_heeded(sys.exc_info()[1])):
            raise first

    def remind() -> None:
        nonlocal reminded
        while not left.wait(AGAIN_SECONDS):
            reminded = True
            _thread.interrupt_main(signal.SIGTERM)

    def unraisable(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            tell_dropped(dropped)

    tell_dropped, sys.unraisablehook = sys.unraisablehook, unraisable
    for number in handlers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        left.set()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = tell_dropped
        if first is not None and isinstance(sys.exc_info()[1], Exception):
            raise first


def _is_heeded(handled: BaseException | None) -> bool:
    """Whether the exception that is being handled is a KeyboardInterrupt, or came while one was."""
    while handled is not None and not isinstance(handled, KeyboardInterrupt):
        handled = handled.__context__
    return handled is not None
