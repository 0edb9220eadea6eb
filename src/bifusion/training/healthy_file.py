"""The healthy state on disk: written once, while training goes on, and linked into every checkpoint
that needs it. A checkpoint within an epoch is half as large to write, which is what counts where a
signal leaves seconds."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch

from bifusion.checksums import NO_DISK, WrittenFile, check_sum, forget_cached, write_summed
from bifusion.files import flush, full_disk_named
from bifusion.stability.healthy import HealthyState

NAME = ".healthy.pt"
"""Beside the checkpoints; gone when the run ends."""


class HealthyFile:
    """Holds the state given last; one writer thread."""

    def __init__(self, checkpoints: Path):
        self.path = checkpoints / NAME
        self._writer = ThreadPoolExecutor(1, "healthy-state")
        self._writing: Future[WrittenFile] | None = None

    def write(self, state: HealthyState) -> None:
        """Begins to write `state`, which must not change, once the one before is on disk.

        Raises DiskFullError where there was no room for the one before.
        """
        if self._writing is not None:
            self._writing.result()
        self._writing = self._writer.submit(_write, self.path, state)

    def written(self) -> WrittenFile:
        """The file, when it is complete. Raises DiskFullError where there is no room for it."""
        assert self._writing is not None, "a run keeps its healthy state from the start"
        return self._writing.result()

    def close(self) -> None:
        """Removes the file. A failure to write it, which nobody asked for any more, is no matter."""
        if self._writing is not None:
            wait([self._writing])
        self._writer.shutdown()
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
            path.unlink()  # half a file would only take up room
            raise
    forget_cached(path)
    check_sum(path, sum_, advice=NO_DISK)
    return WrittenFile(path, sum_)
