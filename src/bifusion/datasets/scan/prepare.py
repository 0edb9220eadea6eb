"""`bifusion prepare scan`: scene folders of many inputs, in several processes, resumably."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bifusion.arguments import path_of
from bifusion.data.checks import require_text
from bifusion.data.scene_folder import read_description, scene_complete, scene_files
from bifusion.datasets.processes import Died, run_in_processes
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.scan.make import checked_options, is_scene, make_scan, scan_name
from bifusion.datasets.scan.options import ScanOptions, changed
from bifusion.datasets.scan.telling import Telling
from bifusion.datasets.shards import WHOLE, Shard, locked_shard
from bifusion.errors import FAILURES, InputError, failure
from bifusion.storage.folders import check_replaceable, tidy


@dataclass
class PreparedScans:
    """What became of each input, by its scene's name."""

    written: dict[str, list[str]] = field(default_factory=dict)
    """Name → lines on how it was understood."""
    kept: list[str] = field(default_factory=list)
    """Those that were there already."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name → what is wrong."""


def prepare_scan(
    path: Path, folder: Path, options: ScanOptions | None = None, telling: Telling | None = None
) -> list[str]:
    """Writes the scene folder of a mesh, a cloud or a recording; returns how it was understood.

    Raises InputError as `make_scan`, or for a folder that was not written here.
    """
    path, folder = path_of(path, "path"), path_of(folder, "folder")
    options = checked_options(options)
    if is_scene(path):
        raise InputError(f"{path}: is a scene folder already; expected a mesh, a cloud or a recording")
    require_text(str(path.resolve()), "input")  # which scene.json says that it was made of
    require_text(folder.name, "scene")
    check_replaceable(folder, scene_files)
    made = make_scan(path, options, telling)
    made.source += _made_of(path, options)
    made.write_scene(folder)
    return made.lines


def prepare_scans(
    paths: Sequence[Path],
    out: Path,
    options: ScanOptions,
    *,
    shard: Shard = WHOLE,
    jobs: int = 1,
    overwrite: bool = False,
    done: Callable[[PreparedScans, int], None] | None = None,
) -> PreparedScans:
    """Writes out/NAME of every input. One that fails does not stop the others.

    Args:
        shard: i of n: every n-th input, from the i-th on, so that n machines share the work; all give
            the same inputs and the same n.
        jobs: processes at a time.
        overwrite: write complete scenes again; one that is there, made of another input or with other
            options, fails otherwise.
        done: called after each with what became of all so far, and how many there are.

    Raises:
        InputError: no input, two of one name; no process; another process writes the same shard, or
            one of another number of shards.
    """
    options.check()
    if jobs < 1:
        raise InputError(f"jobs: found {jobs}; expected 1 or more")
    mine = _shard(_by_name(paths), shard)
    prepared = PreparedScans()
    with locked_shard(out, shard):
        tidy(out, scene_files, only=set(mine))
        there = [name for name in mine if scene_complete(out / name) and not overwrite]
        for name in there:
            why = _another(out / name, mine[name], options)
            if why is None:
                prepared.kept.append(name)
            else:
                prepared.failed[name] = why
        tried = [(path, out / name, options) for name, path in mine.items() if name not in there]
        for number, outcome in run_in_processes(_tried, tried, jobs):
            name = tried[number][1].name
            if isinstance(outcome, Died):
                prepared.failed[name] = f"its process {outcome}; nothing of it was left"
            elif isinstance(outcome, str):
                prepared.failed[name] = outcome
            else:
                prepared.written[name] = outcome
            if done:
                done(prepared, len(mine))
        tidy(out, scene_files, only=set(prepared.failed))  # what a killed process left
    return prepared


def _tried(job: tuple[Path, Path, ScanOptions]) -> list[str] | str:
    """What `prepare_scan` says of its arguments, or what is wrong."""
    try:
        return prepare_scan(*job)
    except FAILURES as error:
        return failure(error, job[1].name)


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Name of the scene → input, in the order given."""
    if not paths:
        raise InputError("prepare scan: of what? Expected meshes, clouds or recordings")
    found: dict[str, Path] = {}
    for path in paths:
        name = scan_name(path)
        if name in found:
            raise InputError(
                f"{found[name]} and {path} would both become scene {name}; rename one, or prepare it to "
                "another place"
            )
        found[name] = path
    return found


def _shard(inputs: dict[str, Path], shard: Shard) -> dict[str, Path]:
    return dict(shard.of(list(inputs.items())))


def _made_of(path: Path, options: ScanOptions) -> str:
    """The end of a scene's source: its input, and the options that were given."""
    given = [*changed(options, ScanOptions()), *changed(options.opening, OpenOptions())]
    said = ", ".join(f"{name} {text}" for name, text in given)
    return f"; made of {path.resolve()}" + (f" with {said}" if said else "")


def _another(folder: Path, path: Path, options: ScanOptions) -> str | None:
    """What is wrong where a scene that is there was not made of `path` and with `options`."""
    try:
        source = str(read_description(folder).get("source"))
    except InputError as error:
        return str(error)
    asked = _made_of(path, options)
    if source.endswith(asked):
        return None
    return (
        f"{folder}: is there already, {source}; asked for is one{asked[1:]}. Nothing was changed; "
        "--overwrite writes it again, another --out leaves it"
    )
