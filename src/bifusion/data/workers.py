"""Processes that load scenes: which signals they heed, and what becomes of a run if one of them dies."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from bifusion.errors import InputError
from bifusion.lifetime import LOOK_SECONDS, Parent, be_killed_at_end_of, how_it_ended, signal_of

WARNING = getattr(signal, "SIGUSR1", None)
"""That a job's time is nearly up; schedulers send it to all processes of the job."""
HELD = (signal.SIGINT, signal.SIGTERM, *([WARNING] if WARNING is not None else []))
BEFORE_SEMAPHORES = 1
"""Of what `multiprocessing` does at the end of a process: the names of semaphores go at 0."""
TELLS_SENDERS = hasattr(signal, "sigtimedwait")
"""The system says who sent a signal (Linux; where it does not, SIGTERM ends a worker at once)."""


class WorkerEndedError(InputError):
    """A process that loads scenes came to an end; names it, what ended it, and what may help."""


class _Ended(BaseException):
    """A worker ended while a batch was waited for. No Exception: torch's loader catches those."""


def heed_the_parent_alone(worker: int) -> None:
    """Set-up of a worker, whose end is its parent's business.

    A terminal sends Ctrl-C to all processes, and a job scheduler SIGTERM: a worker that left at once
    would break the step that its parent still wants to save. Where the parent ends the worker does
    too: torch's would wait for ever, holding memory, for somebody to read their last batches.
    """
    for number in HELD:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    if TELLS_SENDERS:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it is left to the thread below
    gc.freeze()  # what was inherited is the parent's to clear away: a loader's remains would raise here
    parent = Parent()
    be_killed_at_end_of(parent.pipe)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: Parent) -> None:
    """Ends this process within a second of its parent's end, and on SIGTERM of its parent or of the fork
    server above it."""
    while parent.is_there():
        if TELLS_SENDERS:
            came = signal.sigtimedwait({signal.SIGTERM}, LOOK_SECONDS)
            if came is not None and came.si_pid in (parent.above, parent.pid):
                break
        else:
            parent.wait(LOOK_SECONDS)
    os._exit(1)


def batches_from_workers(
    loader: DataLoader, count: int, scenes_of: Callable[[int, int], list[str]]
) -> Iterator[Any]:
    """`count` batches of a loader with persistent workers, which are started if they do not run.

    Args:
        loader: gives at least `count` batches.
        count: batches of this epoch.
        scenes_of: names of the scenes that a worker, by number, may be at when so many batches
            have been taken.
    Raises:
        WorkerEndedError: a worker is dead; the others have then been ended too. Without it the
            program would wait for ever where one was killed in the middle of sending.
    """
    with _raising_for_the_dead(loader, scenes_of, 0), _signals_held():
        batches = iter(loader)
    for taken in range(count):
        with _raising_for_the_dead(loader, scenes_of, taken):
            batch = next(batches)
        yield batch


@contextmanager
def _raising_for_the_dead(
    loader: DataLoader, scenes_of: Callable[[int, int], list[str]], taken: int
) -> Iterator[None]:
    """WorkerEndedError as soon as a worker is dead, whoever else looks out for that: not even as the
    others are ended does anything of theirs raise its error."""
    with _deaf_to_workers():
        try:
            with _woken_by_end_of_worker(loader):
                yield
        except (_Ended, RuntimeError) as error:
            workers = _workers(loader)
            dead = _first_dead(workers)
            if dead is None:
                raise
            _end(loader)
            message = _obituary(workers, dead, scenes_of(dead, taken))
            raise WorkerEndedError(message) from (error if isinstance(error, RuntimeError) else None)


def _end(loader: DataLoader) -> None:
    """Ends what is left of a loader's workers, and what torch keeps for them.

    One that was killed may have held the lock of the event that tells workers to end, and nobody would
    ever get it: torch, which sets that event, is given another that no worker has seen.
    """
    _kill(_workers(loader))
    running: Any = loader._iterator
    running._workers_done_event = multiprocessing.Event()
    running._shutdown_workers()


def _kill(workers: list[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


def end_with_process(loader: DataLoader) -> None:
    """At the end of this process the loader's workers are killed before anything is taken from them.

    `multiprocessing` removes the names of its semaphores first and ends its processes then; a worker
    that was only starting (by a fork server, or spawned) would look for them and print a traceback.
    """

    alive = weakref.ref(loader)  # nothing is kept that is done with

    def kill() -> None:
        running = alive()
        with _deaf_to_workers():
            _kill([] if running is None else _workers(running))

    Finalize(None, kill, exitpriority=BEFORE_SEMAPHORES)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals wait for the end of the block: torch cannot clean up where only some workers started.

    Blocking them in this thread would not do: another thread would take them, and this one act. It is
    done as well, as forked workers are then born deaf to SIGTERM: torch gives them a handler that ends
    them, and `heed_the_parent_alone` runs only after that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda n, frame: came.append(n)) for number in HELD}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if TELLS_SENDERS else None
    try:
        yield
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


@contextmanager
def _deaf_to_workers() -> Iterator[None]:
    """Workers may end in the block; whatever looked out for that (torch, from an iterator of another
    loader) does not raise its error there."""
    if not _hears_of_ends():
        yield
        return
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous)


@contextmanager
def _woken_by_end_of_worker(loader: DataLoader) -> Iterator[None]:
    """Raises _Ended in the block as soon as a worker is dead.

    Torch's own watch, which the first `iter(loader)` sets up, is off afterwards: it raises an error
    wherever the program stands, be it while weights are updated or saved. Where no signal comes, torch
    looks after its workers every few seconds.
    """

    def look(number: int, frame: FrameType | None) -> None:
        if _first_dead(_workers(loader)) is not None:
            raise _Ended

    if not _hears_of_ends():
        yield
        return
    previous = signal.signal(signal.SIGCHLD, look)
    try:
        look(signal.SIGCHLD, None)
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous)


def _hears_of_ends() -> bool:
    """Whether a signal tells that a process has ended: not on Windows, nor outside the main thread."""
    return hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()


def _workers(loader: DataLoader) -> list[BaseProcess]:
    """Processes of a loader with persistent workers; none before its first use."""
    running: Any = loader._iterator
    return [] if running is None else running._workers


def _first_dead(workers: list[BaseProcess]) -> int | None:
    """Reaps nobody (`is_alive` would): the end of another may raise an error in here, and the status of
    one that was just being reaped would be lost, its number taken for a living process ever after."""
    ended = connection.wait([worker.sentinel for worker in workers], timeout=0)
    return next((i for i, worker in enumerate(workers) if worker.sentinel in ended), None)


def _obituary(workers: list[BaseProcess], dead: int, scenes: list[str]) -> str:
    code = workers[dead].exitcode or 0
    cause, memory = "", "give it fewer workers (--trainer.workers) or a smaller --data.cache-mb"
    advice = f"if it happens again, {memory}"
    killed_by = signal_of(code)  # by its name: Windows has neither
    if killed_by == "SIGKILL":
        cause, advice = ", as the system does when memory runs out", memory
    elif killed_by == "SIGBUS":
        cause, advice = ", as when shared memory runs out", "enlarge /dev/shm, or --trainer.workers 0"
    return (
        f"data worker {dead + 1} of {len(workers)} (process {workers[dead].pid}) "
        f"{how_it_ended(code)}{cause}; it had {', '.join(scenes) or 'nothing'} to load. Repeat the "
        f"command (a run: with --resume, in Python resume=True); {advice}"
    )
