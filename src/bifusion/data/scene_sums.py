"""Sums of a scene folder's files: written beside them, and whether the files are still what they were.

`sums.json` holds bytes and SHA-256 of every file that was written with it. Sizes, sums and dates tell in
milliseconds whether a scene has changed since; `read` looks at every byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bifusion.errors import InputError
from bifusion.storage.checksums import is_sum, sum_of
from bifusion.storage.json_files import write_json
from bifusion.untrusted.files import is_file
from bifusion.untrusted.json_text import read_json

SUMS = "sums.json"
VIEWS = "views"
"""What all files under views/ are called together."""
AGAIN = "prepare the scene again, or remove this file"
ARRAYS = tuple(
    f"{name}.npy"
    for name in (
        "coord", "color", "normal", "segment", "segment20", "segment200", "instance", "superpoint",
    )
)  # fmt: skip
IMAGES = (".jpg", ".png", ".npz")


@dataclass(frozen=True)
class FileState:
    """An array, or all views, as the disk has it."""

    bytes: int
    sha256: str | None
    """None: nobody has summed up what is there now."""
    modified_ns: int
    """When it was last written, by the system's clock."""


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Sums up files in a scene folder and writes sums.json, which says nothing of others."""
    write_json(folder / SUMS, {name: sum_of(folder / name) for name in names})


def record_sum(folder: Path, name: str) -> None:
    """Adds one file to the sums of a scene folder, or writes the first."""
    write_json(folder / SUMS, {**_current_sums(folder), name: sum_of(folder / name)})


def forget_sum(folder: Path, name: str) -> None:
    """Takes a file that is about to change out of the sums of a scene folder."""
    if name in read_sums(folder):
        sums = _current_sums(folder)
        sums.pop(name, None)
        write_json(folder / SUMS, sums)


def read_sums(folder: Path) -> dict[str, dict[str, Any]]:
    """{file: {"bytes", "sha256"}}; empty where there is no sums.json. InputError where it is damaged."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    sums = read_json(path, advice=AGAIN)
    if not isinstance(sums, dict) or not all(map(is_sum, sums.values())):
        raise InputError(f"{path}: holds no sums; {AGAIN}")
    return sums


def files_without_sum(folder: Path) -> list[str]:
    """Arrays and images of a scene folder that its sums.json does not list, and so vouches for none of.
    InputError as `read_sums`."""
    return sorted(_files(folder).keys() - read_sums(folder).keys())


def scene_files_state(folder: Path) -> dict[str, FileState]:
    """The arrays of a scene folder and its views, those that are there.

    A file is as summed up if it has the size that sums.json says and is no younger than that.
    InputError: a damaged sums.json.
    """
    sums, path = read_sums(folder), folder / SUMS
    since = path.stat().st_mtime_ns if path.is_file() else 0
    return _by_entry(
        {name: _state(file, sums.get(name), since) for name, file in _files(folder).items()}
    )


def read_scene_files(folder: Path) -> dict[str, FileState]:
    """The same, every byte read. InputError, naming the files, where they are not what was summed up."""
    states = {name: _read(file) for name, file in _files(folder).items()}
    wrong = [
        f"{name} is {'not what was written' if name in states else 'not there'}"
        for name, sum_ in read_sums(folder).items()
        if name not in states or states[name].sha256 != sum_["sha256"]
    ]
    if wrong:
        raise InputError(f"{folder}: {', '.join(wrong)}; copy or prepare the scene again")
    return _by_entry(states)


def read_state(folder: Path, name: str) -> FileState:
    """One of the entries of `scene_files_state`, every byte read."""
    if name != VIEWS:
        return _read(folder / name)
    return _together({str(file.relative_to(folder)): _read(file) for file in _images(folder)})


def _current_sums(folder: Path) -> dict[str, dict[str, Any]]:
    """The sums of files that have not changed since: a younger sums.json must not vouch for others."""
    sums, path = read_sums(folder), folder / SUMS
    since = path.stat().st_mtime_ns if path.is_file() else 0
    there = {name: sum_ for name, sum_ in sums.items() if is_file(folder / name)}
    return {n: s for n, s in there.items() if _state(folder / n, s, since).sha256 is not None}


def _files(folder: Path) -> dict[str, Path]:
    """Arrays and images of a scene folder, by the names that sums.json has for them."""
    arrays = (folder / name for name in ARRAYS)
    files = (*(file for file in arrays if file.is_file()), *_images(folder))
    return {str(file.relative_to(folder)): file for file in files}


def _images(folder: Path) -> list[Path]:
    views = folder / VIEWS
    return (
        sorted(file for file in views.glob("[!.]*") if file.suffix in IMAGES) if views.is_dir() else []
    )


def _state(file: Path, sum_: Mapping[str, Any] | None, since_ns: int) -> FileState:
    there = file.stat()
    known = sum_ is not None and there.st_size == sum_["bytes"] and there.st_mtime_ns <= since_ns
    return FileState(there.st_size, sum_["sha256"] if sum_ and known else None, there.st_mtime_ns)


def _read(file: Path) -> FileState:
    return FileState(**sum_of(file), modified_ns=file.stat().st_mtime_ns)


def _by_entry(states: Mapping[str, FileState]) -> dict[str, FileState]:
    """States of `_files`, those of all views together."""
    arrays = {name: state for name, state in states.items() if name in ARRAYS}
    views = {name: state for name, state in states.items() if name not in ARRAYS}
    return arrays | ({VIEWS: _together(views)} if views else {})


def _together(states: Mapping[str, FileState]) -> FileState:
    """Several files as one; its sum is over their names and sums."""
    sums = [f"{name} {state.sha256}\n" for name, state in sorted(states.items())]
    known = all(state.sha256 is not None for state in states.values())
    return FileState(
        sum(state.bytes for state in states.values()),
        hashlib.sha256("".join(sums).encode()).hexdigest() if known else None,
        max(state.modified_ns for state in states.values()),
    )
