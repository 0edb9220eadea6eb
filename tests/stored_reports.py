"""Reports as they were written before they were typed: content and keys are part of the interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bifusion.storage.json_files import to_json

FOLDER = Path(__file__).parent / "unit" / "stored_reports"


def assert_as_stored(name: str, report: Any) -> None:
    """`report` has the keys and values of stored_reports/NAME.json, floats up to rounding."""
    found, stored = to_json(report), json.loads((FOLDER / f"{name}.json").read_text())
    del found["created"]  # the stored ones have none
    _compare(found, stored, name)


def _compare(found: Any, stored: Any, where: str) -> None:
    if isinstance(stored, dict):
        assert found.keys() == stored.keys(), where
        for key in stored:
            _compare(found[key], stored[key], f"{where}.{key}")
    elif isinstance(stored, list):
        assert len(found) == len(stored), where
        for index, (one, other) in enumerate(zip(found, stored, strict=True)):
            _compare(one, other, f"{where}[{index}]")
    elif isinstance(stored, float):
        assert found == pytest.approx(stored, rel=1e-9, abs=1e-12), where
    else:
        assert found == stored and type(found) is type(stored), where
