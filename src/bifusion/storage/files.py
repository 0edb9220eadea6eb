"""Files and folders that appear complete or not at all, and that a loss of power does not undo.

Everything the product leaves is written here: beside its place, flushed, renamed, and the folder
that holds it flushed too. What a killed process leaves half-written or half-removed has a name of
its own (`.NAME.writing-PID`), which `remove_stale` sweeps up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from torch import Tensor

from bifusion.types import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Disk, quota, or largest size of a file exhausted."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""What file systems without hard links answer."""
STALE = (".*.writing-*", ".*.removing-*")


class DiskFullError(InputError, OSError):
    """There is no room for a file; what stood in its place before is as it was."""


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well and vanishes otherwise.

    Folders above it are made. Raises DiskFullError where there is no room, in this block or before.
    """
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = _beside(path, "writing")
        try:
            yield beside
            flush(beside)
            os.replace(beside, path)
            flush(path.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def folder_written_beside(folder: Path, *, needed: int | None = None) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `folder` when the block ends well.

    All in it is flushed first. It vanishes if the block ends in an error; a folder that stood there
    is removed only at the end. Raises DiskFullError where there is no room, `needed` bytes at once.
    """
    with full_disk_named(folder, needed):
        beside = _beside(folder, "writing")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            if needed is not None and needed > free_bytes(folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            yield beside
            for path in (*beside.rglob("*"), beside):
                flush(path)
            remove_folder(folder)
            os.rename(beside, folder)
            flush(folder.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as `written_beside` does."""
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a .safetensors file as `written_beside` does."""
    with written_beside(path) as beside:
        # Not save_file, whose error does not tell a full disk from any other.
        beside.write_bytes(safetensors.torch.save(dict(tensors), metadata))


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file. Raises DiskFullError, and then leaves the file as it was."""
    data = line.encode() + b"\n"
    with full_disk_named(path), open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) < len(data):  # what there was room for
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def flush(path: Path) -> None:
    """Forces a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hard_link(source: Path, path: Path) -> None:
    """The same file under another name; where the file system knows no hard links, a flushed copy."""
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, path)
        flush(path)


def switch_link(link: Path, target: str) -> None:
    """Points the symbolic link at `target`, a name beside it, in one step.

    A copy of a run may have a folder in the link's place; it goes.
    """
    beside = _beside(link, "writing")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    if not link.is_symlink():
        remove_folder(link)
    os.replace(beside, link)


def remove_folder(folder: Path) -> None:
    """Removes a folder, if there is one, in one step as far as others can see."""
    if not folder.is_dir():
        return
    aside = _beside(folder, "removing")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside)


def remove_stale(folder: Path) -> list[Path]:
    """Removes what killed processes left half-written in a folder that no other process writes to."""
    left = [path for pattern in STALE for path in folder.glob(pattern)]
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return left


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from the folder; the lock goes with the process, however it ends.

    Raises InputError where another process has it. Where the file system knows no locks, warns.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise InputError(
                    f"{folder}: another process is writing this run; let it end, or end it, first"
                ) from error
            warnings.warn(
                f"{folder}: cannot be locked ({error}); start no second run in it", stacklevel=3
            )
        yield


@contextmanager
def full_disk_named(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turns the disk's "no space left" into a DiskFullError that names path, bytes needed and free."""
    try:
        yield
    except OSError as error:
        cut_short = error.errno is None and str(error).endswith(" written")  # by numpy
        if isinstance(error, DiskFullError) or not (error.errno in FULL or cut_short):
            raise
        need = "" if needed is None else f"{needed:,} bytes are needed, "
        limit = " (ulimit -f: files may not be larger)" if error.errno == errno.EFBIG else ""
        raise DiskFullError(
            f"{path}: cannot be written, the disk is full{limit}: {need}{free_bytes(path):,} are free; "
            "make room and repeat the command (a run: with --resume). What was there before is intact"
        ) from error


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where `path` is or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _beside(path: Path, doing: str) -> Path:
    return path.with_name(f".{path.name}.{doing}-{os.getpid()}")
