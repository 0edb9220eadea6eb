"""A reader, and a valid sample of what it reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bifusion.rng import numpy_rng
from laboratory.fuzz.mutations import mutated

OWN, OTHER = 100_000, 10_000
"""Inputs of parsers that are ours, and of readers that lean on libraries."""


@dataclass(frozen=True)
class Target:
    """One thing that reads strangers' files."""

    name: str
    write: Callable[[Path], Path]
    """Writes a small valid sample into an empty folder; returns the file or folder that is read."""
    read: Callable[[Path], object]
    """Reads it. InputError is the only exception that a changed sample may raise."""
    modules: tuple[str, ...]
    """The readers' modules in `bifusion`, or packages of them."""
    inputs: int = OTHER
    changed: str = "*"
    """Which files of the sample are changed, by a pattern of their names."""


@dataclass(frozen=True)
class Sample:
    """A valid sample on disk."""

    folder: Path
    read: Path
    """What of it is read, within the folder."""
    originals: dict[Path, bytes]
    """Files that are changed, in order of their names, within the folder, and their content."""

    def copied(self, place: Path) -> Sample:
        """The same in another, new folder."""
        shutil.copytree(self.folder, place, symlinks=True)
        return Sample(place, self.read, self.originals)


def make_sample(target: Target, folder: Path) -> Sample:
    """Writes the target's sample to a new folder."""
    folder.mkdir(parents=True)
    read = target.write(folder)
    files = (path for path in sorted(folder.rglob(target.changed)) if not path.is_symlink())
    originals = {path.relative_to(folder): path.read_bytes() for path in files if path.is_file()}
    return Sample(folder, read.relative_to(folder), originals)


def changed_file(target: Target, sample: Sample, number: int) -> tuple[Path, bytes]:
    """Which file input `number` changes, within the sample's folder, and into what: always the same."""
    rng = numpy_rng(0, "fuzz", target.name, number)
    files = list(sample.originals)
    kinds = sorted({path.suffix for path in files})  # each as likely as the others
    kind = kinds[int(rng.integers(len(kinds)))]
    of_kind = [path for path in files if path.suffix == kind]
    path = of_kind[int(rng.integers(len(of_kind)))]
    return path, mutated(sample.originals[path], rng)
