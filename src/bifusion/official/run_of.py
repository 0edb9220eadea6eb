"""A published checkpoint file where a run is expected: converted once, from then on in the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bifusion.datasets.mesh_files.read import is_mesh_file
from bifusion.errors import InputError
from bifusion.official.hub import is_shared, pulled
from bifusion.official.import_checkpoint import fill_run_folder, read_checkpoint
from bifusion.runs.checkpoint import CONFIG, LAST, WEIGHTS
from bifusion.storage.cache import VARIABLE, cache_folder
from bifusion.storage.checksums import sha256_of
from bifusion.storage.files import DiskFullError, locked
from bifusion.storage.folders import folder_written_beside, tidy

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
    converted = cache_folder() / "checkpoints"
    run = converted / f"{sha256_of(path)[:DIGITS]}-{CONVERSION}"
    if _is_whole(run):
        say(f"{path.name}: converted earlier, taken from {run}")
        return run
    with _unwritable_named(path):
        converted.mkdir(parents=True, exist_ok=True)
    with _unwritable_named(path), locked(converted, wait=True):
        tidy(converted, _written)
        if not _is_whole(run):  # nor made by the process that was waited for
            kind = _convert(path, run)
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
    """Writes the run folder, whole or not at all; says what the file is."""
    imported = read_checkpoint(path)
    if not imported.conversion.complete:
        raise InputError(
            f"{path}: not all of {imported.kind}:\n  "
            + "\n  ".join(imported.conversion.problems())
            + f"\n`bifusion import-checkpoint {path} RUN --partial` takes what fits; give RUN then"
        )
    with folder_written_beside(run, _written) as beside:  # a half-gone one gives way
        fill_run_folder(imported, beside)
    return "; ".join([imported.kind, *imported.notes])


def _is_whole(run: Path) -> bool:
    checkpoint = run / "checkpoints" / LAST
    return all((checkpoint / name).is_file() for name in (WEIGHTS, CONFIG))


@contextmanager
def _unwritable_named(path: Path) -> Iterator[None]:
    """InputError for a cache that cannot be written; what `path` itself meets is its own."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.filename == str(path):
            raise
        raise InputError(
            f"{cache_folder()}: the cache cannot be written ({error.strerror or error}); "
            f"{VARIABLE}=FOLDER in the environment names another folder for it"
        ) from error


def _written(folder: Path) -> list[str]:
    """Nothing in the cache is a user's own."""
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(str(path.relative_to(folder)) for path in files)
