"""Changes to a zip archive, entry by entry."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

Change = Callable[[bytes, np.random.Generator], bytes]


def changed_zip(data: bytes, rng: np.random.Generator, change: Change) -> bytes:
    """The archive anew with an entry's content changed, compressed, renamed or gone; or one that says
    that it is encrypted, of another method, or larger."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except (
        zipfile.BadZipFile, RuntimeError, ValueError, OSError, EOFError, KeyError,
        zlib.error, lzma.LZMAError,
    ):  # fmt: skip
        return change(data[4:], rng)  # told apart as bytes
    if not entries:
        return data[:-1]
    at = int(rng.integers(len(entries)))
    name, content = entries[at]
    method = zipfile.ZIP_STORED
    what = int(rng.integers(8))
    if what < 4:
        entries[at] = (name, change(content, rng))
    elif what == 4:
        method = int(rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    elif what == 5:
        entries[at] = (str(rng.choice(["../x", "/x", "x", name + "x", "a/" + name])), content)
    elif what == 6:
        entries[at : at + 1] = []
    archive = _written(entries, method)
    return archive if what < 7 else _with_other_heads(archive, rng)


def _written(entries: list[tuple[str, bytes]], method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries:
            entry = zipfile.ZipInfo(name)  # at a fixed time: the same input at every run
            entry.compress_type = method
            archive.writestr(entry, content)
    return file.getvalue()


def _with_other_heads(archive: bytes, rng: np.random.Generator) -> bytes:
    """A field of the central directory's first entry changed: flags, method, or one of its sizes."""
    at = archive.find(b"PK\x01\x02")
    offset, size = [(8, 2), (10, 2), (20, 4), (24, 4), (42, 4)][int(rng.integers(5))]
    word = int(rng.choice([0, 1, 9, 0x7FFFFFFF, 0xFFFFFFFF])).to_bytes(4, "little")[:size]
    return archive[: at + offset] + word + archive[at + offset + size :]
