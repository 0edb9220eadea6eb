"""Changes to a valid file: to its bytes, and to what it is made of, so that they reach deep into a
reader.

A file is told apart by how it begins: JSON, a zip archive, a safetensors file, a pickle, text, text
before data (PLY, .npy), or bytes.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from laboratory.fuzz.extremes import NUMBERS, TEXTS, WORDS, json_values
from laboratory.fuzz.pickles import changed_pickle
from laboratory.fuzz.zips import changed_zip

Rng = np.random.Generator
MOST_BYTES = 1 << 20
"""A mutated file is no larger: time and memory that reading takes are the reader's."""
MOST_CHANGES = 4
_NUMBER = re.compile(rb"[-+]?\d[\d.]*(?:[eE][-+]?\d+)?")
_TEXT_HEAD = 4096


def mutated(data: bytes, rng: Rng) -> bytes:
    """`data`, changed in one to `MOST_CHANGES` ways."""
    for _ in range(1 if rng.random() < 0.6 else rng.integers(2, MOST_CHANGES + 1)):
        structured = rng.random() < 0.7
        data = (_structured(data, rng) if structured else changed_bytes(data, rng))[:MOST_BYTES]
    return data


def _structured(data: bytes, rng: Rng) -> bytes:
    if data[:4] == b"PK\x03\x04":
        return changed_zip(data, rng, mutated)
    if data[:1] == b"\x80":
        return changed_pickle(data, rng)
    if data.lstrip()[:1] in (b"{", b"["):
        return changed_json_text(data, rng)
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data):
        return _changed_safetensors(data, rng)
    head = _text_head(data)
    return changed_text(data[:head], rng) + data[head:] if head else changed_bytes(data, rng)


# --------------------------------------------------------------------------------------------- bytes


def changed_bytes(data: bytes, rng: Rng) -> bytes:
    """Bits flipped, words replaced by limits of their types, blocks cut, repeated or moved."""
    if not data:
        return bytes(rng.integers(0, 256, 20, np.uint8))
    return _one(BYTE_CHANGES, rng)(data, rng)


def _flip(data: bytes, rng: Rng) -> bytes:
    other = bytearray(data)
    for at in rng.integers(0, len(data), 1 + int(rng.exponential(3))):
        other[at] ^= 1 << int(rng.integers(8))
    return bytes(other)


def _word(data: bytes, rng: Rng) -> bytes:
    size = int(_one((1, 2, 4, 8), rng))
    order = "<>"[int(rng.integers(2))]
    word = struct.pack(f"{order}Q", _one(WORDS, rng))
    at = int(rng.integers(len(data)))
    return data[:at] + (word[:size] if order == "<" else word[-size:]) + data[at + size :]


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _drop(data: bytes, rng: Rng) -> bytes:
    begin, end = _block(data, rng)
    return data[:begin] + data[end:]


def _repeat(data: bytes, rng: Rng) -> bytes:
    begin, end = _block(data, rng)
    return data[:end] + data[begin:end] * int(_one((1, 2, 100, 1000), rng)) + data[end:]


def _move(data: bytes, rng: Rng) -> bytes:
    begin, end = _block(data, rng)
    rest = data[:begin] + data[end:]
    at = int(rng.integers(len(rest) + 1))
    return rest[:at] + data[begin:end] + rest[at:]


def _insert(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 40))) + data[at:]


def _zeros(data: bytes, rng: Rng) -> bytes:
    begin, end = _block(data, rng)
    return data[:begin] + bytes(end - begin) + data[end:]


def _block(data: bytes, rng: Rng) -> tuple[int, int]:
    begin = int(rng.integers(len(data)))
    return begin, min(len(data), begin + 1 + int(rng.exponential(30)))


BYTE_CHANGES: Sequence[Callable[[bytes, Rng], bytes]] = (
    _flip, _flip, _word, _word, _cut, _drop, _repeat, _move, _insert, _zeros,
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- text


def changed_text(data: bytes, rng: Rng) -> bytes:
    """A number or a word replaced, a line gone, repeated or moved."""
    numbers = list(_NUMBER.finditer(data))
    choice = rng.random()
    if numbers and choice < 0.5:
        found = numbers[int(rng.integers(len(numbers)))]
        return data[: found.start()] + _one(NUMBERS, rng).encode() + data[found.end() :]
    if choice < 0.65:
        words = list(re.finditer(rb"[^\s,={}\[\]:]+", data))
        if words:
            found = words[int(rng.integers(len(words)))]
            other = _one(TEXTS, rng).encode("utf-8", "surrogatepass")
            return data[: found.start()] + other + data[found.end() :]
    lines = data.splitlines(keepends=True)
    if len(lines) > 1 and choice < 0.95:
        at, other = (int(k) for k in rng.integers(0, len(lines), 2))
        what = int(rng.integers(4))
        if what == 0:
            del lines[at]
        elif what == 1:
            lines[at:at] = [lines[at]] * int(_one((1, 10, 2000), rng))
        elif what == 2:
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines[at] = lines[at].rstrip(b"\r\n") + b" " + lines[other]
        return b"".join(lines)
    return changed_bytes(data, rng)


def _text_head(data: bytes) -> int:
    """Bytes up to which a file is text: all of it, or a header before data."""
    for end in (b"end_header\n", b"}", b"\n"):  # of PLY, of .npy, of portable grey maps
        found = data.find(end, 0, _TEXT_HEAD)
        if found >= 0 and _is_text(data[:found]) and not _is_text(data):
            return found
    return len(data) if _is_text(data) else 0


def _is_text(data: bytes) -> bool:
    try:
        text = data.removeprefix(b"\x93NUMPY\x01\0").decode()
    except UnicodeDecodeError:
        return False
    return sum(not (one.isprintable() or one.isspace()) for one in text) <= 2


# ---------------------------------------------------------------------------------------------- JSON


def changed_json_text(data: bytes, rng: Rng) -> bytes:
    """JSON, or JSON lines, with one value changed; text where it is no JSON any more."""
    lines = data.splitlines(keepends=True)
    if len(lines) > 1 and all(line[:1] == b"{" for line in lines):
        at = int(rng.integers(len(lines)))
        lines[at] = changed_json_text(lines[at].rstrip(b"\n"), rng) + b"\n"
        return b"".join(lines)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return changed_text(data, rng)
    return json.dumps(changed_json(value, rng), ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )


def changed_json(value: Any, rng: Rng) -> Any:
    """`value` with one value in it replaced, removed, repeated or renamed."""
    holders = _holders(value)
    if not holders or rng.random() < 0.02:
        return _one(json_values(), rng)
    holder = holders[int(rng.integers(len(holders)))]
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    key = keys[int(rng.integers(len(keys)))]
    what = rng.random()
    if isinstance(holder[key], str) and holder[key][:1] in ("{", "["):  # JSON within JSON
        holder[key] = changed_json_text(holder[key].encode(), rng).decode("utf-8", "replace")
    elif what < 0.6:
        holder[key] = _one(json_values(), rng)
    elif what < 0.75:
        del holder[key]
    elif isinstance(holder, list):
        holder[key:key] = [holder[key]] * int(_one((1, 3, 1000), rng))
    else:
        holder[_one((*TEXTS, *map(str, keys)), rng)] = holder.pop(key)
    return value


def _holders(value: Any) -> list[Any]:
    """Every list and dict in a value that holds something."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list) and one:
            found.append(one)
            waiting += one.values() if isinstance(one, dict) else one[:50]
    return found


def _changed_safetensors(data: bytes, rng: Rng) -> bytes:
    """Its header changed, and its length with it, mostly."""
    length = int.from_bytes(data[:8], "little")
    header = changed_json_text(data[8 : 8 + length].rstrip(), rng)
    told = len(header) if rng.random() < 0.9 else int(_one(WORDS, rng))
    return struct.pack("<Q", told) + header + data[8 + length :]


def _one(among: Sequence[Any], rng: Rng) -> Any:
    return among[int(rng.integers(len(among)))]
