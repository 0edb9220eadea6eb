"""The files of a shared run, and the checksums by which they are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bifusion.errors import InputError
from bifusion.runs.checkpoint import CONFIG, SUMS, WEIGHTS
from bifusion.storage.checksums import is_sum
from bifusion.untrusted.json_text import read_json

DESCRIPTION, EVALUATION, CARD = "run.json", "evaluation.json", "README.md"
SHARED = (WEIGHTS, CONFIG, DESCRIPTION, EVALUATION)
"""Files whose checksums are stored with them."""
FILES = (*SHARED, CARD, SUMS)
MOST_SUM_BYTES = 1 << 16
"""Of the list of checksums: those of four files take less than 1 kB."""


def read_sums(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """{file of SHARED: {"bytes", "sha256"}} of what `push` stored as "user/name" and lies in `folder`.

    InputError where nothing, or nothing valid, tells that it did.
    """
    sums = _valid_sums(folder)
    if sums is None:
        raise InputError(
            f"hf://{name}: was not stored by `bifusion push`: {SUMS} does not list its files with their "
            "checksums; look at the name, or tell its owner"
        )
    return sums


def written(folder: Path) -> list[str]:
    """What `push` wrote into a folder; none where another did."""
    return [] if _valid_sums(folder) is None else list(FILES)


def _valid_sums(folder: Path) -> dict[str, dict[str, Any]] | None:
    path = folder / SUMS
    if not path.is_file():
        return None
    try:
        sums = read_json(path, most_bytes=MOST_SUM_BYTES)
    except InputError:
        return None  # whoever wrote it, nothing in it can be relied on
    if not isinstance(sums, dict) or not all(map(is_sum, sums.values())):
        return None
    if not {WEIGHTS, CONFIG} <= sums.keys():
        return None
    return {file: sums[file] for file in SHARED if file in sums}
