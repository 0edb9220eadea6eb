"""JSON from strangers: as RFC 8259 has it, nested as deep and with numbers as large as data are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bifusion.errors import InputError
from bifusion.untrusted.files import ADVICE, MISSING, MOST_TEXT_BYTES, read_text

DEEPEST = 100
"""Lists and objects within each other; what describes runs and recordings has a dozen."""
LARGEST = 2**63 - 1
"""Whole numbers beyond 64 bits fit no array."""


def read_json(
    path: Path,
    *,
    most_bytes: int = MOST_TEXT_BYTES,
    missing: str = MISSING,
    advice: str = ADVICE,
    finite: bool = True,
) -> Any:
    """What the JSON in `path` says. InputError as `files.read_text` and `parse_json`."""
    text = read_text(path, most_bytes=most_bytes, missing=missing, advice=advice)
    return parse_json(text, path, advice=advice, finite=finite)


def parse_json(
    text: str | bytes, where: Path | str, *, advice: str = ADVICE, finite: bool = True
) -> Any:
    """What JSON says.

    InputError, naming `where` and ending in `advice`: no JSON; NaN or an infinity, which JSON does not
    have (but Python writes: taken where not `finite`), nor what 64 bits do not hold; text that is no
    Unicode; nested deeper than DEEPEST.
    """
    refused = _refuse_constant if finite else None
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, parse_constant=refused, parse_float=_finite, parse_int=_whole)
        if _is_deeper(value, DEEPEST):
            raise ValueError(f"nested deeper than {DEEPEST}")
        if "\\ud" in text.lower():  # half of a pair of escapes is text that nothing can write
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(f"{where}: not valid JSON (nested without end); {advice}") from None
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error}); {advice}") from None
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number; null stands for what is not finite")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def _whole(digits: str) -> int:
    if len(digits) < 19:
        return int(digits)
    number = int(digits) if len(digits) < 30 else LARGEST + 1
    if abs(number) > LARGEST:
        raise ValueError(f"the whole number {digits[:40]} does not fit 64 bits")
    return number


def _is_deeper(value: Any, deepest: int) -> bool:
    """Whether lists and objects are nested deeper, level by level as the stack is finite."""
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(deepest):
        if not level:
            return False
        members = (one.values() if type(one) is dict else one for one in level)
        level = [item for within in members for item in within if type(item) in (list, dict)]
    return bool(level)
