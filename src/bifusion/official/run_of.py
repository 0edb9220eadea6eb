"""A published checkpoint file where a run is expected: converted once, from then on in the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bifusion.datasets.mesh_files.read import is_mesh_file
from bifusion.errors import InputError
from bifusion.official.cached_runs import cached_run
from bifusion.official.hub import is_shared, pulled
from bifusion.official.import_checkpoint import fill_run_folder, read_checkpoint
from bifusion.runs.checkpoint import CONFIG, WEIGHTS
from bifusion.storage.checksums import sha256_of

DIGITS = 32
"""Of the checksum in a folder's name."""
CONVERSION = 1
"""One more whenever the same file is converted into something else: what lies in the cache is then made
anew."""

_logger = logging.getLogger("bifusion.official")


def run_of(path: str | Path, say: Callable[[str], None] = _logger.info) -> Path:
    """`path` where it is a run or checkpoint folder, or weights in one; the run folder in the cache that
    a published checkpoint file was or is now converted into, or that hf://user/name is fetched into.

    It is found again by the file's content (SHA-256), whatever the file is called then, and made anew
    where some of it is gone.

    Args:
        path: run folder, checkpoint folder, or a file (`read_checkpoint`).
        say: gets one line where a file was given: what it is, and where its conversion lies.
    Raises:
        InputError: a mesh or scene folder; a file that cannot be read, that holds no network known
            here, or not all of it; a cache that cannot be written.
    """
    path = Path(path)
    if is_shared(path):
        return pulled(path, say)
    _refuse_scene(path)
    if not path.is_file() or (path.name == WEIGHTS and (path.parent / CONFIG).is_file()):
        return path
    name = f"{sha256_of(path)[:DIGITS]}-{CONVERSION}"
    run, kind = cached_run("checkpoints", name, partial(_convert, path), reading=path)
    if kind is None:
        say(f"{path.name}: converted earlier, taken from {run}")
    else:
        say(f"{path.name}: {kind}, converted into {run}, where the next call finds it")
    return run


def _refuse_scene(path: Path) -> None:
    """InputError for what is segmented, in the place of what segments: the two are easily swapped."""
    is_mesh = is_mesh_file(path) and path.is_file()
    if is_mesh or (path / "coord.npy").is_file():
        what = "mesh or cloud" if is_mesh else "scene folder"
        raise InputError(
            f"{path}: is a {what}; expected a run here, which comes first: `bifusion predict RUN "
            f"{path.name}`"
        )


def _convert(path: Path, run: Path) -> str:
    """Fills the new folder `run`; returns what the file is. InputError for one that is incomplete."""
    imported = read_checkpoint(path)
    if not imported.conversion.complete:
        raise InputError(
            f"{path}: not all of {imported.kind}:\n  "
            + "\n  ".join(imported.conversion.problems())
            + f"\n`bifusion import-checkpoint {path} RUN --partial` takes what fits; give RUN then"
        )
    fill_run_folder(imported, run)
    return "; ".join([imported.kind, *imported.notes])
