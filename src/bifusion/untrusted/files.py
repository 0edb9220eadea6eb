"""Regular files alone: a pipe would be waited for without end, a device read without end."""

from __future__ import annotations

import os
import shlex
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from bifusion.errors import InputError, listing

MOST_TEXT_BYTES = 64 << 20
"""An hour of poses at 60 a second, 16 numbers each, takes 50 MB."""
MISSING = "no such file"
ADVICE = "copy it again"
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How members of the archives read here are packed. The others' errors are their own, their memory is
what a member declares."""
ZIP_FAULTS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError,
    OverflowError, IndexError,
)  # fmt: skip
"""What zipfile says of damage, of encryption and of features it does not know. `InputError` is one."""
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
"""Without waiting, should the file have become a pipe meanwhile. Not every system has every flag."""


def open_regular(
    path: Path, *, most_bytes: int | None = None, missing: str = MISSING, advice: str = ADVICE
) -> BinaryIO:
    """The file in `path`, open to be read.

    Args:
        most_bytes: a larger one is refused; None: of any size.
        missing: what is said where there is none.
        advice: how other messages end.
    Raises:
        InputError: missing, no regular file, too large, not to be opened.
    """
    check_regular(path, most_bytes=most_bytes, missing=missing, advice=advice)
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); {advice}") from error
    return open(descriptor, "rb")


def check_regular(
    path: Path, *, most_bytes: int | None = None, missing: str = MISSING, advice: str = ADVICE
) -> int:
    """Bytes of the file in `path`, for what opens it by its name. InputError as `open_regular`."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: {missing}") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be opened ({reason}); {advice}") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is {_kind(status.st_mode)}, no file; {advice}")
    if most_bytes is not None and status.st_size > most_bytes:
        raise InputError(
            f"{path}: has {status.st_size:,} bytes; expected at most {most_bytes:,}; {advice}"
        )
    return status.st_size


def is_file(path: Path) -> bool:
    """Whether `path`, a name that a stranger gave, is a regular file; not an error, whatever it is."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_leftover(path: Path) -> bool:
    """Whether a file or folder is what archives and file systems of macOS and of Synology leave beside
    the real ones, under like names: ._0.jpg, __MACOSX, @eaDir."""
    return path.name.startswith((".", "__MACOSX", "@eaDir"))


def entries(folder: Path, limit: int = 6) -> str:
    """What is in a folder, folders first, for a message: "depth/, rgb/, notes.txt"."""
    found = sorted(folder.iterdir(), key=lambda path: (not path.is_dir(), path.name))
    return listing([path.name + "/" * path.is_dir() for path in found], limit) or "nothing"


def check_inside(path: Path, folder: Path) -> None:
    """InputError where `path`, a name in `folder`, leads out of it by links."""
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(os.path.realpath(folder)):
        raise InputError(f"{path}: leads out of {folder}, to {target}; copy the file there itself")


def check_links(folder: Path) -> None:
    """InputError where a link anywhere in `folder` leads out of it; the folder itself may be one."""
    root = os.path.realpath(folder)
    for place, folders, names in os.walk(folder):
        for name in sorted((*folders, *names)):
            path = os.path.join(place, name)
            target = os.path.realpath(path) if os.path.islink(path) else root
            if not Path(target).is_relative_to(root):
                raise InputError(
                    f"{path}: is a link that leads out of {folder}, to {target}; the files of somebody "
                    "else could make any file of yours part of a result that way. If you mean it, copy "
                    f"what links lead to along with the rest (cp -rL {shlex.quote(str(folder))} COPY), "
                    "and give the copy"
                )


def read_bytes(
    path: Path,
    *,
    most_bytes: int = MOST_TEXT_BYTES,
    missing: str = MISSING,
    advice: str = ADVICE,
) -> bytes:
    """All of the file in `path`. InputError as `open_regular`."""
    with open_regular(path, most_bytes=most_bytes, missing=missing, advice=advice) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # memory for no more, should it grow


def read_text(
    path: Path,
    *,
    most_bytes: int = MOST_TEXT_BYTES,
    missing: str = MISSING,
    advice: str = ADVICE,
) -> str:
    """The UTF-8 text in `path`, without a byte order mark; line ends become newlines.

    InputError as `open_regular`, and for what is no text.
    """
    content = read_bytes(path, most_bytes=most_bytes, missing=missing, advice=advice)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is no text in UTF-8{_other_encoding(content)} ({error.reason} at byte "
            f"{error.start}); {advice}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _other_encoding(content: bytes) -> str:
    """What a spreadsheet or an editor wrote instead, where that shows."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return " but in UTF-16: save it as UTF-8"
    if 0 not in content:
        return ", maybe in Latin-1 or Windows-1252: save it as UTF-8"
    return ""


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
