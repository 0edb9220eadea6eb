"""JSON, tables and other text in which one number or text is what none should be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from laboratory.hostile.put import Kinds, content

PLACES = 6
"""Numbers of a file, and texts, that are replaced one at a time, evenly spread."""
NUMBERS = {
    "NaN": "NaN", "infinity": "Infinity", "minus infinity": "-Infinity", "1e999": "1e999",
    "2^63": str(2**63), "2^64": str(2**64), "minus 2^70": str(-(2**70)), "10^400": "1" + "0" * 400,
    "5,000 digits": "9" * 5000, "minus one": "-1", "zero": "0", "10^9": str(10**9), "1e-320": "1e-320",
}  # fmt: skip
"""In JSON, as Python writes it."""
VALUES = {
    "null": "null", "true": "true", "a list": "[]", "an object": "{}", "a text": '"x"',
    "control characters": '"\\u001b[2J\\u0007"', "half a pair": '"\\ud800"', "a NUL": '"a\\u0000b"',
    "a path upwards": '"../../../../etc/passwd"', "a path of the root": '"/etc/passwd"',
    "a device's name": '"/dev/zero"', "a text of 1 MB": '"' + "x" * (1 << 20) + '"',
    "150 lists within each other": "[" * 150 + "]" * 150,
    "100,000 lists within each other": "[" * 100_000 + "]" * 100_000,
    "brackets that do not close": "[" * 100_000,
}  # fmt: skip
WORDS = {
    "NaN": "nan", "infinity": "inf", "minus infinity": "-inf", "1e999": "1e999", "2^63": str(2**63),
    "10^400": "1" + "0" * 400, "5,000 digits": "9" * 5000, "minus one": "-1", "zero": "0",
    "10^9": str(10**9), "control characters": "\x1b[2J\x07", "a NUL": "\0",
    "a path upwards": "../../../../etc/passwd", "a device's name": "/dev/zero",
}  # fmt: skip
"""In other text."""
MARK = "the one that is replaced"
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")


def json_kinds(data: bytes) -> Kinds:
    """Of JSON, or of JSON lines, whose first is changed."""
    first, rest = _first_value(data)
    for text in ("[" * 100_000, "[" * 150 + "]" * 150, "null", "[]", "{}", "3", "NaN", '"x"'):
        yield (
            f"JSON: {text if len(text) < 9 else f'{len(text):,} brackets'}",
            content(text.encode() + rest),
        )
    for name, (kind, value) in _replacements().items():
        for changed in _with(first, kind, value):
            yield f"JSON: {name}", content(changed.encode() + rest)


def is_json(data: bytes) -> bool:
    try:
        _first_value(data)
    except ValueError:
        return False
    return True


def text_kinds(data: bytes) -> Kinds:
    """Of other text: tables, poses, intrinsics, scenes' descriptions, OBJ, headers of PLY."""
    text = data.decode()
    found = _spread(list(_NUMBER.finditer(text)))
    for name, word in WORDS.items():
        for place in found:
            changed = text[: place.start()] + word + text[place.end() :]
            yield f"text: {name}", content(changed.encode())
    lines = data.splitlines(keepends=True)
    yield "text: a column of 10^6", content(data + b"1 " * 10**6 + b"\n")
    yield "text: no last line", content(b"".join(lines[:-1]))
    yield "text: a line again, 10^5 times", content(data + lines[-1] * 10**5)
    yield "text: UTF-16", content(text.encode("utf-16"))
    yield "text: no Unicode", content(data + b"\xff\xfe\xfa\n")


def is_text(data: bytes) -> bool:
    try:
        return bool(data) and data.decode().replace("\n", "").replace("\t", "").isprintable()
    except UnicodeDecodeError:
        return False


def _replacements() -> dict[str, tuple[type, str]]:
    numbers: dict[str, tuple[type, str]] = {name: (float, text) for name, text in NUMBERS.items()}
    return numbers | {f"{name} for a number": (float, text) for name, text in VALUES.items()} | {
        f"{name} for a text": (str, text) for name, text in VALUES.items()
    }  # fmt: skip


def _first_value(data: bytes) -> tuple[Any, bytes]:
    """The value of JSON, and nothing; the first of JSON lines, and the others. ValueError: no JSON."""
    lines = data.strip().splitlines(keepends=True)
    if len(lines) > 1 and all(line[:1] == b"{" for line in lines):
        return json.loads(lines[0]), b"\n" + b"".join(lines[1:])
    return json.loads(data), b""


def _with(value: Any, kind: type, text: str) -> Iterator[str]:
    """The JSON of a value in which one number, or one text, is replaced by `text`: several of them."""
    wanted = (str,) if kind is str else (int, float)
    for holder, key in _spread([at for at in _leaves(value) if type(at[0][at[1]]) in wanted]):
        before, holder[key] = holder[key], MARK
        yield json.dumps(value).replace(json.dumps(MARK), text)
        holder[key] = before


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where the single values in a value are: their list or object, and their place in it."""
    keys = (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        if isinstance(value[key], dict | list):
            yield from _leaves(value[key])
        else:
            yield value, key


def _spread(places: list[Any]) -> list[Any]:
    """At most PLACES of them, from the first to the last."""
    if len(places) <= PLACES:
        return places
    return [places[k * (len(places) - 1) // (PLACES - 1)] for k in range(PLACES)]
