"""Tasks in processes: what becomes of one whose process cannot be started."""

from functools import partial
from multiprocessing.process import BaseProcess

from bifusion.datasets.scan.processes import NOT_STARTED, in_processes


def test_a_fork_server_that_is_killed_costs_one_task(monkeypatch):
    """As where the system ends it for want of memory while a process is asked for."""
    start, asked = BaseProcess.start, list[str]()

    def killed_once(process):
        asked.append(process.name)
        if len(asked) == 1:
            raise EOFError("unexpected EOF")
        start(process)

    monkeypatch.setattr(BaseProcess, "start", killed_once)
    tasks = {name: partial(list, [name]) for name in ("first", "second")}
    assert dict(in_processes(tasks, jobs=1)) == {"first": NOT_STARTED, "second": ["second"]}
