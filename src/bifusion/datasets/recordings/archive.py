"""Files that lie in a folder or in a ZIP archive, by name; an archive is never unpacked to the disk."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Protocol, runtime_checkable

from bifusion.errors import InputError
from bifusion.untrusted.files import ZIP_FAULTS, ZIP_METHODS


@runtime_checkable
class Members(Protocol):
    """Files by their names, with / between folders."""

    path: Path
    names: frozenset[str]

    def read(self, name: str, most: int) -> bytes:
        """What is in a file of at most `most` bytes. InputError: missing, larger, damaged."""
        ...


def open_members(path: Path) -> Members:
    """The files in a folder, or in a ZIP archive. InputError: no such archive."""
    return FolderMembers(path) if path.is_dir() else ZipMembers(path)


class FolderMembers:
    """The files of a folder and of those in it."""

    def __init__(self, path: Path):
        self.path = path
        found = (*path.glob("*"), *path.glob("*/*"))
        self.names = frozenset(one.relative_to(path).as_posix() for one in found if one.is_file())

    def read(self, name: str, most: int) -> bytes:
        try:
            with open(self.path / name, "rb") as file:
                return _limited(file.read(most + 1), most, f"{self.path / name}")
        except OSError as error:
            raise InputError(f"{self.path / name}: cannot be read ({error.strerror})") from None


class ZipMembers:
    """The members of an archive, opened anew for each, so that processes do not share a place in it."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = frozenset(archive.namelist())
        except ZIP_FAULTS as error:
            raise InputError(f"{path}: is no readable ZIP archive ({error}); copy it again") from None

    def read(self, name: str, most: int) -> bytes:
        where = f"{self.path}: {name}"
        try:
            with zipfile.ZipFile(self.path) as archive:
                usual = archive.getinfo(name).compress_type in ZIP_METHODS
                data = archive.open(name).read(most + 1) if usual else None
        except KeyError:
            raise InputError(f"{where}: missing; the recording needs it") from None
        except ZIP_FAULTS as error:
            raise InputError(f"{where}: cannot be unpacked ({error}); copy it again") from None
        if data is None:
            raise InputError(
                f"{where}: is not packed as ZIP archives usually are (deflate), which alone is read; "
                "unpack the recording and give the folder"
            )
        return _limited(data, most, where)


def _limited(data: bytes, most: int, where: str) -> bytes:
    if len(data) > most:
        raise InputError(f"{where}: has more than {most:,} bytes; the recording is damaged")
    return data
