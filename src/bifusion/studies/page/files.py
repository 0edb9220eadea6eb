"""What a study leaves: NAME.json, its schema beside it, and the page NAME.html that shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import jsonschema

from bifusion.storage.files import write_text
from bifusion.storage.json_files import to_json
from bifusion.storage.json_schema import json_schema


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """What the report of every study tells first."""

    schema_version: Literal[1] = 1
    """Raised when the meaning of a key changes."""
    title: str
    """As shown."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """When it was written, ISO 8601, UTC."""
    complete: bool
    """Every planned run ended and was evaluated, or was stopped by its guard; none crashed."""
    cautions: list[str]
    """Where runs were not made all alike, a sentence each: versions of the software, changes that were
    accepted while they trained."""


def write_study(out: Path, name: str, kind: str, report: StudyReport, html: str) -> None:
    """Writes NAME.json, NAME.schema.json (titled `kind`) and NAME.html to `out`.

    Each file is written beside and renamed, so that a reader never meets half of one.
    """
    schema = json_schema(type(report), kind)
    content = to_json(report)
    jsonschema.validate(content, schema)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{name}.json", _text(content))
    write_text(out / f"{name}.schema.json", _text(schema))
    write_text(out / f"{name}.html", html)


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False)
