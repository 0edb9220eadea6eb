"""What every study says where all, or only some, of its scenes are generated rooms."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

GENERATED = "generated room, config 0123"
BESIDE = pytest.mark.parametrize(
    ("others", "badge", "line", "scenes"),
    [
        (GENERATED, "synthetic rooms", "All figures are of", "8 generated rooms"),
        ("ScanNet v2", "some rooms synthetic", "Some figures, not all, are of", "8 scenes (some of"),
    ],
)
"""Sources of the scenes beside generated ones, and what is told then."""


def check_told(
    report: Any,
    page: Path,
    print_report: Callable[[Any, Console], None],
    badge: str,
    line: str,
    scenes: str,
) -> None:
    assert report.partly_synthetic == (badge == "some rooms synthetic") != report.synthetic
    text = page.read_text()
    assert re.findall(r'class="badge">([^<]*rooms[^<]*)<', text) == [badge] and scenes in text
    console = Console(record=True, width=80)
    print_report(report, console)
    assert line in console.export_text()
