"""What stands where a file was expected, whatever the file is."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

Put = Callable[[Path], object]
"""Puts a hostile input where nothing is."""
Kinds = Iterator[tuple[str, Put]]
"""Names of kinds, and inputs of each."""
LINE_BYTES = 50 << 20
CALLED = "called"
"""File that a program in a checkpoint would make where the reader runs."""
HOLE_BYTES = 1 << 40
"""A file that takes no room on the disk, and more than there is in memory."""


def content(data: bytes) -> Put:
    """Puts a file with this content."""
    return lambda path: path.write_bytes(data)


def in_place_of_a_file(data: bytes) -> Kinds:
    """Pipes, devices, sockets, folders, links, nothing, and files without end."""
    yield "a pipe", os.mkfifo
    yield "a device", lambda path: path.symlink_to("/dev/zero")
    yield "a socket", _put_socket
    yield "a folder", Path.mkdir
    yield "a link to nothing", lambda path: path.symlink_to(path.with_name("nothing"))
    yield "a link to itself", lambda path: path.symlink_to(path.name)
    yield "no file", lambda path: None
    yield "an empty file", Path.touch
    yield "half a file", content(data[: len(data) // 2])
    yield "a hole of 1 TB", _put_hole
    yield "a line of 50 MB", lambda path: path.write_bytes(b"x" * LINE_BYTES)
    yield "digits of 50 MB", lambda path: path.write_bytes(b"9" * LINE_BYTES)
    yield "zeros of 50 MB", lambda path: path.write_bytes(bytes(LINE_BYTES))
    yield "its first line, then 50 MB", lambda path: path.write_bytes(_long_second_line(data))


def _put_socket(path: Path) -> None:
    before = Path.cwd()
    with socket.socket(socket.AF_UNIX) as server:  # whose name may not be as long as a path
        os.chdir(path.parent)
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


def _put_hole(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(HOLE_BYTES)


def _long_second_line(data: bytes) -> bytes:
    first, newline, rest = data.partition(b"\n")
    return first + newline + b"a " * (LINE_BYTES // 2) + newline + rest
