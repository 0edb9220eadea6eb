"""Files that appear complete or not at all, and that a loss of power does not undo.

Everything the product leaves is written here (folders: `folders.py`): beside its place, flushed,
renamed, and the folder that holds it flushed too. What a killed process leaves half-written has a name
of its own (`.NAME.writing-PID`), which goes when the file is next written, and which `remove_stale`
sweeps up.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path

import filelock
import numpy as np
import safetensors.torch
from torch import Tensor

from bifusion.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Disk, quota, or largest size of a file exhausted."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems without locks answer."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""What file systems without links, hard or symbolic, answer."""


LETTING_GO_SECONDS = 1.0
"""The processes of a command that was killed end within this time, and their locks with them."""

_LEFT: dict[Path, list[Path]] = {}
"""Folder → what was half-written in it when this process first wrote there."""


class DiskFullError(InputError, OSError):
    """There is no room for a file; what stood in its place before is as it was."""


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well and vanishes otherwise.

    Folders above it are made. Raises DiskFullError where there is no room, in this block or before.
    """
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        beside = beside_of(path, "writing")
        try:
            yield beside
            flush(beside)
            os.replace(beside, path)
            flush(path.parent)
        finally:
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as `written_beside` does. InputError where a name in it is none."""
    data = _encoded(text, path)
    with written_beside(path) as beside:
        beside.write_bytes(data)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a .safetensors file as `written_beside` does."""
    with written_beside(path) as beside:
        # Not save_file, whose error does not tell a full disk from any other.
        beside.write_bytes(safetensors.torch.save(dict(tensors), metadata))


@contextmanager
def filled_in_memory(path: Path) -> Iterator[BytesIO]:
    """What the block has written becomes the file `path`, or OSError says that there is no room.

    For libraries that write below Python: NumPy leaves its last kilobytes to fclose and Pillow takes
    part of a block for the whole, so that on a disk which is full just there a file ends short, unsaid.
    """
    buffer = BytesIO()
    yield buffer
    path.write_bytes(buffer.getbuffer())


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file as `filled_in_memory` does."""
    with filled_in_memory(path) as file:
        np.save(file, array)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file. Raises DiskFullError, and then leaves the file as it was; InputError for a
    name in it that is no UTF-8."""
    data = _encoded(line, path) + b"\n"
    with full_disk_named(path), open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) < len(data):  # what there was room for
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def _encoded(text: str, path: Path) -> bytes:
    """UTF-8; InputError for what the bytes of a file's name become that are none."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        around = text[max(error.start - 20, 0) : error.end + 20]
        raise InputError(
            f"{path}: is to hold {around!r}, a name that is no text in UTF-8, as archives of other "
            "systems leave it; rename that file or folder"
        ) from None


def flush(path: Path) -> None:
    """Forces a file, or a folder's list of names, to disk. Windows opens no folder, and flushes only
    what is open for writing."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
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


def remove_stale(folder: Path) -> list[Path]:
    """Removes files that killed processes left half-written in a folder that no other process writes
    to; folders are `folders.tidy`'s."""
    left = [path for path in folder.glob(".*") if is_left(path, "writing")]
    left = [path for path in left if path.is_symlink() or path.is_file()]
    for path in left:
        path.unlink()
    return left


def beside_of(path: Path, doing: str) -> Path:
    """The hidden name beside `path` of what this process is writing, replacing or removing."""
    return path.with_name(f".{path.name}.{doing}-{os.getpid()}")


def is_left(path: Path, doing: str) -> bool:
    """Whether a name is one that `beside_of` gives, in any process."""
    return re.fullmatch(rf"\..+\.{doing}-\d+", path.name) is not None


def seen_name(left: Path) -> str:
    """The name without what `beside_of` adds."""
    return left.name[1:].rpartition(".")[0]


def is_abandoned(left: Path) -> bool:
    """Whether the process in a name of `beside_of` has ended, as far as this machine knows."""
    number = int(left.name.rpartition("-")[2])
    if number == os.getpid():
        return True  # of an earlier process of this number
    if os.name != "posix":
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # of another user; no number of a process
        return False
    return False


def _remove_left(path: Path) -> None:
    """Removes what killed processes left half-written of the file `path`.

    A folder is looked through once: thousands of masks may be written into one.
    """
    folder = path.parent.absolute()
    if folder not in _LEFT:
        _LEFT[folder] = [left for left in folder.glob(".*") if is_left(left, "writing")]
    for left in _LEFT[folder]:
        if seen_name(left) == path.name and is_abandoned(left) and not left.is_dir():
            left.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, *, wait: bool = False, name: str = ".lock") -> Iterator[None]:
    """Keeps other processes from the folder; the lock goes with the process, however it ends.

    `wait`: until another process that has it is done, instead of raising InputError after a second.
    `name`: of the lock's file there; processes that share the folder's work have one each. Where the
    file system knows no locks, warns.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{folder}: is a file, or below one; expected a folder: name another"
        ) from error
    lock = filelock.FileLock(folder / name)
    try:
        lock.acquire(timeout=-1 if wait else LETTING_GO_SECONDS)
    except filelock.Timeout as error:
        raise InputError(
            f"{folder}: another process is writing here; let it end, or end it, first"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(f"{folder}: cannot be locked ({error}); start no second run in it", stacklevel=3)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def locked_beside(path: Path) -> AbstractContextManager[None]:
    """`locked` for a file or folder that others are to find as if there were no lock."""
    path = path.resolve()
    return locked(path.parent, name=f".{path.name}.lock")


@contextmanager
def full_disk_named(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turns the disk's "no space left" into a DiskFullError that names path, bytes needed and free."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.errno not in FULL:
            raise
        need = "" if needed is None else f"{needed:,} bytes are needed, "
        limit = " (ulimit -f: files may not be larger)" if error.errno == errno.EFBIG else ""
        raise DiskFullError(
            f"{path}: cannot be written, the disk is full{limit}: {need}{free_bytes(path):,} are free; "
            "make room and repeat the command (a run: with --resume, in Python resume=True). What was "
            "there before is intact"
        ) from error


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where `path` is or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
