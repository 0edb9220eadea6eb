"""The healthy state on disk: written once, while training goes on, and linked into every checkpoint
that needs it. A checkpoint within an epoch is half as large to write, which is what counts where a
signal leaves seconds."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch

from bifusion.runs.healthy import HealthyState
from bifusion.storage.checksums import (
    NEEDS_OTHER_DISK,
    WrittenFile,
    check_sum,
    forget_cached,
    write_summed,
)
from bifusion.storage.files import DiskFullError, flush, full_disk_named


class HealthyFile:
    """File of the state given last. One thread writes; nobody else uses the name.

    Rest before a process is forked: it would keep the file open, and its room taken, after its end.
    """

    def __init__(self, checkpoints: Path):
        self.path = checkpoints / f".healthy.pt.writing-{os.getpid()}"
        self.state: HealthyState | None = None
        self._writer = ThreadPoolExecutor(1, "healthy-state")
        self._writing: Future[WrittenFile] | None = None

    def write(self, state: HealthyState) -> None:
        """Begins to write `state`, which must not change. Room that is lacking is told by `written`."""
        self.rest()
        self.state = state
        self._writing = self._writer.submit(_write, self.path, state)

    def rest(self) -> None:
        """Waits until nothing is being written."""
        if self._writing is not None:
            wait([self._writing])

    def let_go(self) -> None:
        """Rests and forgets the state: a new one is about to take its memory."""
        self.rest()
        self.state = None

    def written(self) -> WrittenFile:
        """The file, when it is complete; good until the next `write`. Where there was no room it is
        tried again.

        Raises DiskFullError, or InputError where the disk does not give back what was written.
        """
        assert self._writing is not None and self.state is not None, "nothing was given to write"
        try:
            return self._writing.result()
        except DiskFullError:
            self.write(self.state)
            return self._writing.result()

    def close(self) -> None:
        """Removes the file."""
        try:
            self.rest()
            self._writer.shutdown()
        finally:
            self.path.unlink(missing_ok=True)


def _write(path: Path, state: HealthyState) -> WrittenFile:
    """Writes, flushes and reads back. Checkpoints have links to the old file, not to its name."""
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            sum_ = write_summed(path, lambda file: torch.save(vars(state), file))
            flush(path)
        except OSError:
            path.unlink(missing_ok=True)  # half a file would only take up room
            raise
    forget_cached(path)
    check_sum(path, sum_, advice=NEEDS_OTHER_DISK)
    return WrittenFile(path, sum_)
