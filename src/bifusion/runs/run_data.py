"""What a run is trained on and with, as data.json in its folder says, and what has changed since.

Data may lie elsewhere, but must be the same; versions of the software must be. Whatever is not is told,
scene by scene, and refused, or accepted by who trains, and then recorded for good.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from bifusion.config.plain import from_plain
from bifusion.config.run import Config
from bifusion.data.dataset import open_scenes
from bifusion.data.scene_source import SceneFolders
from bifusion.data.scene_sums import (
    FileState,
    files_without_sum,
    read_scene_files,
    read_state,
    scene_files_state,
)
from bifusion.errors import InputError
from bifusion.storage.json_files import write_json
from bifusion.untrusted.json_text import read_json

_logger = logging.getLogger(__name__)
FILE = "data.json"
SPLITS = ("train", "val")
PACKAGES = ("bifusion", "torch", "lightning-fabric", "open_clip_torch", "numpy")
"""Software whose version decides, to the bit, what is learned."""
MOST_THREADS = 512
"""More than any one machine has cores; as many would be started."""
NAMED = 3
"""Files named in a line."""


@dataclass(frozen=True)
class RunData:
    """Content of data.json."""

    root: str
    """Where the data lay when it was last looked at, absolute."""
    scenes: dict[str, dict[str, FileState]]
    """ "SPLIT/NAME" → file → its state; no files of scenes that are no folders."""
    threads: int
    """Of torch on the CPU; a run keeps the number that it began with."""
    versions: dict[str, str]
    """Package → version."""
    accepted: list[list[str]] = field(default_factory=list)
    """What had changed each time that changes were accepted."""


def data_of(config: Config, *, read: bool = False) -> RunData:
    """The data of a configuration, and this software, as sizes, dates and sums tell.

    `read`: every byte instead. InputError: a damaged sums.json; with `read`, naming them, files that are
    not as they were when they were prepared.
    """
    state = read_scene_files if read else scene_files_state
    scenes: dict[str, dict[str, FileState]] = {}
    wrong, without = [], list[str]()
    for split in SPLITS:
        opened = open_scenes(config.data, split, annotated=False)
        for name in opened.names:
            scenes[f"{split}/{name}"] = {}
            if isinstance(opened, SceneFolders):
                try:
                    scenes[f"{split}/{name}"] = state(opened.folder / name)
                    if read:
                        listed = files_without_sum(opened.folder / name)
                        without += [f"{split}/{name}/{file}" for file in listed]
                except InputError as error:
                    wrong.append(str(error))
    if wrong:
        raise InputError("\n".join(wrong))
    if without:
        _logger.warning(
            "%d files were read and compared with nothing, as no sums.json lists them (the first: %s)",
            len(without),
            ", ".join(without[:NAMED]),
        )
    versions = {package: version(package) for package in PACKAGES}
    return RunData(str(Path(config.data.root).resolve()), scenes, torch.get_num_threads(), versions)


def read_data(folder: Path) -> RunData | None:
    """What data.json of a run folder says; None where there is none, as in runs of earlier versions.
    InputError where it is damaged."""
    path, advice = folder / FILE, "restore the file, or start a new run"
    if not path.is_file():
        return None
    data = from_plain(RunData, read_json(path, advice=advice), str(path))
    if not 1 <= data.threads <= MOST_THREADS:
        raise InputError(f"{path}: threads is {data.threads}; expected 1 … {MOST_THREADS}; {advice}")
    return data


def write_data(folder: Path, data: RunData) -> None:
    """Writes data.json of a run folder."""
    write_json(folder / FILE, asdict(data))


def scene_changes(then: RunData, now: RunData) -> list[str]:
    """A line for each scene that is another now; where only a file's bytes can tell, they are read."""
    lines = [f"{name}: is gone" for name in then.scenes if name not in now.scenes]
    lines += [f"{name}: is new" for name in now.scenes if name not in then.scenes]
    for name in then.scenes.keys() & now.scenes.keys():
        files = list(_changed_files(then, now, name))
        if files:
            lines.append(f"{name}: {', '.join(files)}")
    return sorted(lines)


def are_scenes_of(then: RunData, now: Config, split: str) -> bool:
    """Whether the scenes of a split of `now`, wherever they lie, are to the byte those of the run.

    False too where nobody can tell: scenes that are no folders, files that had not been summed up when
    the run was begun. InputError: a damaged sums.json.
    """
    opened = open_scenes(now.data, split, annotated=False)
    names = [name.removeprefix(f"{split}/") for name in then.scenes if name.startswith(f"{split}/")]
    if not isinstance(opened, SceneFolders) or sorted(names) != sorted(opened.names):
        return False
    return bool(names) and all(
        _are_files_of(then.scenes[f"{split}/{name}"], opened.folder / name) for name in names
    )


def _are_files_of(then: dict[str, FileState], folder: Path) -> bool:
    now = scene_files_state(folder)
    if not then or then.keys() != now.keys():
        return False
    if any(one.sha256 is None or one.bytes != now[file].bytes for file, one in then.items()):
        return False
    return all(
        one.sha256 == (now[file].sha256 or read_state(folder, file).sha256) for file, one in then.items()
    )


def version_changes(then: RunData, now: RunData) -> list[str]:
    """A line for each package that is of another version now."""
    packages = dict.fromkeys((*then.versions, *now.versions))
    both = {name: (then.versions.get(name, "none"), now.versions.get(name, "none")) for name in packages}
    return [f"{name}: was {one}, is {other}" for name, (one, other) in both.items() if one != other]


@contextmanager
def threads_of(then: RunData | None) -> Iterator[None]:
    """torch works with as many threads as the run began with; with others it would round otherwise."""
    before = torch.get_num_threads()
    if then is not None and then.threads != before:
        _logger.warning("trained with %d threads so far, and now; not with %d", then.threads, before)
        torch.set_num_threads(then.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _changed_files(then: RunData, now: RunData, name: str) -> Iterator[str]:
    """What is to be said of each file of a scene that is another."""
    one, other = then.scenes[name], now.scenes[name]
    for file in dict.fromkeys((*one, *other)):
        if file not in other:
            yield f"{file} is gone"
        elif file not in one:
            yield f"{file} is new"
        elif not _is_same(one[file], other[file], then, now, name, file):
            yield f"{file} has changed"


def _is_same(
    one: FileState, other: FileState, then: RunData, now: RunData, name: str, file: str
) -> bool:
    if one.bytes != other.bytes:
        return False
    if one.sha256 is not None and other.sha256 is not None:
        return one.sha256 == other.sha256
    if then.root == now.root and one.modified_ns == other.modified_ns:
        return True
    if one.sha256 is None:
        return then.root != now.root  # of a copy nothing but its size can be told
    return read_state(Path(now.root) / name, file).sha256 == one.sha256
