"""Checksums of files, taken as they are written and compared with what the disk gives back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bifusion.errors import InputError

NEEDS_OTHER_DISK = "the disk does not keep what is written to it: use another one"


@dataclass(frozen=True)
class WrittenFile:
    """A file that is on disk as its checksum says."""

    path: Path
    sum: dict[str, Any]


class SummedFile:
    """Sums up what is written to an open binary file, and remembers an error of its disk."""

    def __init__(self, file: IO[bytes]):
        self._file, self._sum = file, hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        self._sum.update(data)
        self.bytes += len(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def record(self) -> dict[str, Any]:
        """{"bytes", "sha256"} of all that was written."""
        return {"bytes": self.bytes, "sha256": self._sum.hexdigest()}


def write_summed(path: Path, write: Callable[[Any], object]) -> dict[str, Any]:
    """Lets `write` fill a new file, given as a SummedFile, and returns what that records.

    An error of the disk is raised as it is, whatever `write` makes of it: torch's writer, whose
    output has stopped short, ends in a RuntimeError that does not tell a full disk from a bug.
    """
    with open(path, "xb") as file:
        summed = SummedFile(file)
        try:
            write(summed)
        except RuntimeError:
            if summed.error is not None:
                raise summed.error from None
            raise
    return summed.record()


def check_sum(path: Path, expected: dict[str, Any], *, advice: str) -> None:
    """InputError, naming what differs and ending in `advice`, unless the file is as it was written."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, though one was saved; {advice}")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise InputError(f"{path}: has {size:,} bytes instead of {expected['bytes']:,}; {advice}")
    if sha256_of(path) != expected["sha256"]:
        raise InputError(f"{path}: is not as it was saved (its checksum differs); {advice}")


def is_sum(value: Any) -> bool:
    """Whether a value that was read has a checksum's two fields."""
    fields = value if isinstance(value, dict) else {}
    return type(fields.get("bytes")) is int and isinstance(fields.get("sha256"), str)


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sum_of(path: Path) -> dict[str, Any]:
    """{"bytes", "sha256"} of a file as it is."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def forget_cached(path: Path) -> None:
    """Makes the next reader of a flushed file get it from the disk, where the system can do that."""
    if not hasattr(os, "posix_fadvise"):
        return
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
