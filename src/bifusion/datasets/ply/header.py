"""The header of a PLY file: which elements follow, of which properties, in which encoding.

Format: Greg Turk, "The PLY Polygon File Format" (Stanford, 1994), with the sized names of types that
later writers use (`float32` for `float`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bifusion.errors import InputError
from bifusion.untrusted.files import open_regular

MOST_HEADER_BYTES = 1 << 20
MOST_NAMES = 1000
"""Of elements, and of properties of one; Gaussian splats have 62."""
Encoding = Literal["ascii", "<", ">"]
"""Text, or binary of a byte order."""
ENCODINGS: dict[str, Encoding] = {
    "ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"
}  # fmt: skip
TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8",
}  # fmt: skip
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Property:
    """One property of an element; with `count_dtype` a list of `dtype`, preceded by its length."""

    name: str
    dtype: np.dtype
    count_dtype: np.dtype | None = None


@dataclass(frozen=True)
class Element:
    """A table of `count` rows. The count is what the file says, not yet what it has."""

    name: str
    count: int
    properties: tuple[Property, ...]


@dataclass(frozen=True)
class Header:
    """What stands before the data."""

    encoding: Encoding
    elements: tuple[Element, ...]
    comments: tuple[str, ...]
    size: int
    """Bytes up to where the data begins."""


def read_header(path: Path) -> Header:
    """The header of `path`.

    Raises InputError: no such file, no PLY file, a header without end or of another grammar.
    """
    missing = "missing; expected a PLY file with the scan's mesh or cloud there"
    with open_regular(path, missing=missing) as file:
        start = file.read(MOST_HEADER_BYTES)
    lines, size = _header_lines(start, path)
    elements: list[Element] = []
    encoding: Encoding | None = None
    comments = []
    for number, raw in enumerate(lines[1:], start=2):
        line = " ".join(raw.split())
        word, _, rest = line.partition(" ")
        where = f"{path}: line {number} of the header, {line[:80]!r}:"
        if word == "format":
            encoding = _encoding(rest.split(), where)
        elif word == "element":
            if len(elements) == MOST_NAMES:
                raise InputError(f"{where} is one of more than {MOST_NAMES}; export the file again")
            elements.append(_element(rest.split(), where))
        elif word == "property":
            if not elements:
                raise InputError(f"{where} stands before any element; export the file again")
            elements[-1] = _with_property(elements[-1], rest.split(), where)
        elif word in ("comment", "obj_info"):
            comments.append("".join(raw.split(None, 1)[1:]).rstrip())
        elif word:
            raise InputError(f"{where} expected format, element, property or comment; export it again")
    if encoding is None:
        raise InputError(f"{path}: the header has no line 'format'; export the file again")
    names = [element.name for element in elements]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: the header declares an element twice ({', '.join(names)})")
    return Header(encoding, tuple(elements), tuple(comments), size)


def _header_lines(start: bytes, path: Path) -> tuple[list[str], int]:
    """The lines up to end_header, and the bytes that they take.

    Lines end in \\n, \\r\\n or \\r; which of them, the first line tells, as data follow the last.
    """
    begin = len(_BYTE_ORDER_MARK) if start.startswith(_BYTE_ORDER_MARK) else 0
    if not start:
        raise InputError(f"{path}: is empty; copy or export it again")
    magic = start[begin : begin + 5]
    ending = next((end for end in (b"\r\n", b"\n", b"\r") if magic.startswith(b"ply" + end)), None)
    if ending is None:
        raise InputError(
            f"{path}: is no PLY file, it begins with {start[:32]!r}; expected 'ply' on a line of its own"
        )
    lines, at = [], begin
    while (end := start.find(ending, at)) >= 0:
        line = start[at:end].decode("utf-8", "replace")
        at = end + len(ending)
        if line.strip() == "end_header":
            return lines, at
        lines.append(line)
    raise InputError(
        f"{path}: the header has no line 'end_header' within {len(start):,} bytes; "
        "the file is cut short, copy or export it again"
    )


def _encoding(words: list[str], where: str) -> Encoding:
    if not words or words[0] not in ENCODINGS:
        raise InputError(f"{where} expected one of {', '.join(ENCODINGS)}, and 1.0")
    return ENCODINGS[words[0]]


def _element(words: list[str], where: str) -> Element:
    if len(words) != 2 or not words[1].isdecimal() or len(words[1]) > 18:
        raise InputError(f"{where} expected the element's name and how many there are")
    return Element(words[0], int(words[1]), ())


def _with_property(element: Element, words: list[str], where: str) -> Element:
    *types, name = words or [""]
    is_list = types[:1] == ["list"]
    kinds = types[1:] if is_list else types
    unknown = [kind for kind in kinds if kind not in TYPES]
    if unknown or len(kinds) != (2 if is_list else 1):
        raise InputError(
            f"{where} expected 'TYPE NAME' or 'list TYPE TYPE NAME' with types {', '.join(TYPES)}"
        )
    if name in (known.name for known in element.properties):
        raise InputError(f"{where} {element.name} has a property {name} already; export it again")
    if len(element.properties) == MOST_NAMES:
        raise InputError(f"{where} {element.name[:80]} has more than {MOST_NAMES} properties")
    dtypes = [np.dtype(TYPES[kind]) for kind in kinds]
    if is_list and dtypes[0].kind == "f":
        raise InputError(f"{where} the length of a list is stored as {kinds[0]}; expected whole numbers")
    new = Property(name, dtypes[-1], dtypes[0] if is_list else None)
    return Element(element.name, element.count, (*element.properties, new))
