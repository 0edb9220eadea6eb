"""Jobs in processes of their own: one that dies takes one job with it, and none outlives the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any, TypeVar

from bifusion.data.workers import heed_the_parent_alone
from bifusion.lifetime import ctrl_c_blocked, how_it_ended

GRACE_SECONDS = 5.0
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Died:
    """A process ended in the middle of a job."""

    exitcode: int
    """Negative where a signal ended it."""

    def __str__(self) -> str:
        """What befell it, as a sentence on the process goes on."""
        cause = (
            "as for want of memory"
            if self.exitcode < 0
            else "by an error of the software that its traceback tells"
        )
        return f"{how_it_ended(self.exitcode)}, {cause}"


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    job: int | None = None
    """Number of the job that it is at."""


def run_in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[int, Result | Died]]:
    """`work` of each job, by its number, in the order in which they come to an end.

    Whatever ends the loop, an exception such as that of Ctrl-C or a `break`, ends the processes too.

    Args:
        work: a function of a module; what it raises ends its process, with a traceback on stderr.
        workers: processes at most; 0: it is done here, and what `work` raises comes through.
    """
    if workers == 0:
        yield from ((number, work(job)) for number, job in enumerate(jobs))
        return
    waiting = list(range(len(jobs)))[::-1]
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_started(work))
                _give(running[-1], waiting.pop(), jobs)
            pipes = {worker.pipe: worker for worker in running}
            for pipe in connection.wait(list(pipes)):
                worker = pipes[pipe]  # type: ignore[index]
                number, result = _taken(worker)
                yield number, result
                if waiting and not isinstance(result, Died):
                    _give(worker, waiting.pop(), jobs)
                else:
                    running.remove(worker)
                    _end([worker])
    finally:
        _end(running)


def _started(work: Callable) -> _Worker:
    context = get_context("spawn")  # a fork of a process that already runs torch's threads can hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs), daemon=True)
    with ctrl_c_blocked():
        process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, number: int, jobs: Sequence) -> None:
    worker.job = number
    with suppress(BrokenPipeError):  # it has died; its end of the pipe tells
        worker.pipe.send(jobs[number])


def _taken(worker: _Worker) -> tuple[int, Any]:
    assert worker.job is not None
    try:
        return worker.job, worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join(GRACE_SECONDS)
        return worker.job, Died(worker.process.exitcode or 0)


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(GRACE_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()


def _serve(work: Callable, pipe: connection.Connection) -> None:
    heed_the_parent_alone(0)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(work(job))
