"""Independent tasks in processes of their own: one that crashes or is killed takes no other with it."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from bifusion.errors import FAILURES, failure
from bifusion.lifetime import end_with_parent

Outcome = list[str] | str
"""What a task that gives lines returned, or what is wrong."""
Result = TypeVar("Result")
NOT_STARTED = "its process could not be started, as what starts them was killed; nothing of it was made"
PRELOADED = ["bifusion.datasets.scan.make"]


def in_processes(
    tasks: Mapping[str, Callable[[], Result]], jobs: int
) -> Iterator[tuple[str, Result | str]]:
    """Name and outcome of each task, as they end: what it returned, which is no text, or what is wrong.

    FAILURES are outcomes; of any other error too, which leaves its traceback, it is said that there was
    one.

    Args:
        tasks: by name; they must pickle.
        jobs: processes at a time. On Ctrl-C all of them are ended.
    """
    waiting, running = list(tasks), dict[Connection, tuple[str, BaseProcess]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                try:
                    receiver, process = _start(name, tasks[name])
                except (
                    EOFError,
                    ConnectionError,
                ):  # the fork server's end; the next start makes another
                    yield name, NOT_STARTED
                    continue
                running[receiver] = (name, process)
            for ready in wait(list(running)) if running else ():
                assert isinstance(ready, Connection)
                name, process = running.pop(ready)
                yield name, _received(ready, process)
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _start(name: str, task: Callable[[], Any]) -> tuple[Connection, BaseProcess]:
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
    else:
        context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, name, pickle.dumps(task)), name=name)
    process.start()
    sender.close()
    return receiver, process


def _run(sender: Connection, name: str, task: bytes) -> None:
    end_with_parent()  # before what the task needs is imported, which takes seconds
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    sender.send(_outcome(name, pickle.loads(task)))


def _outcome(name: str, task: Callable[[], Result]) -> Result | str:
    try:
        return task()
    except FAILURES as error:
        return failure(error, name)


def _received(receiver: Connection, process: BaseProcess) -> Any:
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        why = (
            f"was killed by signal {-code}, as for want of memory"
            if code < 0
            else (f"ended with {code}, by an error of the software that its traceback tells")
        )
        return f"its process {why}; nothing of it was left"
    process.join()
    return outcome
