"""Recordings that are refused, and the changes that make them so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.errors import InputError


def refused(path: Path, words: str, **options) -> None:
    with pytest.raises(InputError, match=words):
        open_recording(path, OpenOptions(**options))


def edited(path: Path, change: Callable[[dict], object]) -> None:
    """JSON, changed in place."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
