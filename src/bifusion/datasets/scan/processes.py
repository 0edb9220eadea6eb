"""Independent tasks in processes of their own: one that is killed takes no other with it."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from bifusion.errors import InputError
from bifusion.lifetime import end_with_parent

Outcome = list[str] | str
"""What a task returned, or what is wrong."""
Task = Callable[[], list[str]]
PRELOADED = ["bifusion.datasets.scan.make"]


def in_processes(tasks: Mapping[str, Task], jobs: int) -> Iterator[tuple[str, Outcome]]:
    """Name and outcome of each task, as they end; an InputError is an outcome, other errors are raised.

    Args:
        tasks: by name; with more than one job they must pickle.
        jobs: processes at a time; 1: this one. On Ctrl-C all of them are ended.
    """
    if jobs <= 1 or len(tasks) <= 1:
        for name, task in tasks.items():
            yield name, _outcome(task)
        return
    waiting, running = list(tasks), dict[Connection, tuple[str, BaseProcess]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                receiver, process = _start(name, tasks[name])
                running[receiver] = (name, process)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                name, process = running.pop(ready)
                yield name, _received(ready, process)
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _start(name: str, task: Task) -> tuple[Connection, BaseProcess]:
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
    else:
        context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, pickle.dumps(task)), name=name)
    process.start()
    sender.close()
    return receiver, process


def _run(sender: Connection, task: bytes) -> None:
    end_with_parent()  # before what the task needs is imported, which takes seconds
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    sender.send(_outcome(pickle.loads(task)))


def _outcome(task: Task) -> Outcome:
    try:
        return task()
    except InputError as error:
        return str(error)


def _received(receiver: Connection, process: BaseProcess) -> Outcome:
    try:
        outcome: Outcome = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        why = f"killed by signal {-code}, as for want of memory" if code < 0 else f"ended with {code}"
        return f"its process was {why}; nothing of it was left"
    process.join()
    return outcome
