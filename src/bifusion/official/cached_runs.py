"""Run folders in the cache, each made once of what is stored elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bifusion.errors import InputError
from bifusion.runs.checkpoint import CONFIG, LAST, WEIGHTS
from bifusion.storage.cache import VARIABLE, cache_folder
from bifusion.storage.files import DiskFullError, locked
from bifusion.storage.folders import folder_written_beside, tidy

Made = TypeVar("Made")


def cached_run(
    part: str, name: str, fill: Callable[[Path], Made], *, reading: Path
) -> tuple[Path, Made | None]:
    """The run folder PART/NAME of the cache, and what `fill` returned; None where it was there, whole.

    Args:
        part: folder of the cache, whose writers wait for each other.
        fill: writes the run into the folder that it gets; called where some of it is missing.
        reading: file or folder that it reads; what that one itself meets is not the cache's fault.
    Raises:
        InputError: a cache that cannot be written; what `fill` raises comes through.
    """
    folder = cache_folder() / part
    run = folder / name
    if _is_whole(run):
        return run, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, wait=True):
            tidy(folder, _written)
            if _is_whole(run):  # made by the process that was waited for
                return run, None
            with folder_written_beside(run, _written) as beside:  # a half-gone one gives way
                return run, fill(beside)
    except OSError as error:
        own = error.filename is not None and Path(error.filename).is_relative_to(reading)
        if isinstance(error, DiskFullError) or own:
            raise
        raise InputError(
            f"{cache_folder()}: the cache cannot be written ({error.strerror or error}); "
            f"{VARIABLE}=FOLDER in the environment names another folder for it"
        ) from error


def _is_whole(run: Path) -> bool:
    checkpoint = run / "checkpoints" / LAST
    return all((checkpoint / name).is_file() for name in (WEIGHTS, CONFIG))


def _written(folder: Path) -> list[str]:
    """Nothing in the cache is a user's own."""
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(str(path.relative_to(folder)) for path in files)
