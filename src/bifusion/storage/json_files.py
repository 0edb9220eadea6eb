"""JSON as this project writes it: no NaN in it, whole or not at all on disk."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.storage.files import write_text


def to_json(value: Any) -> Any:
    """`value` in JSON's own types: NaN and infinities become null, arrays lists, paths text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, str) or not isinstance(value, Sequence):
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        return str(value) if isinstance(value, Path) else value
    return [to_json(item) for item in value]


def json_text(value: Any) -> str:
    """`value` as lines of a file."""
    return json.dumps(to_json(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as `files.written_beside` does: a reader never sees half of it."""
    write_text(path, json_text(value))


def embed_json(value: Any) -> str:
    """JSON that may stand in a script element, whatever names it holds."""
    content = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
