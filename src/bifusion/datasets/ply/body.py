"""The data of a PLY file as arrays. No size that the file declares is believed before the file is seen
to be that long, and no row is handled in Python unless rows differ in length."""

from __future__ import annotations

import struct
import warnings
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from bifusion.datasets.ply.header import Element, Header, Property
from bifusion.types import InputError


@dataclass
class Lists:
    """A list property of N rows: their lengths, (N,) int64, and all their items one after another."""

    counts: np.ndarray
    items: np.ndarray


Columns = dict[str, "np.ndarray | Lists"]
"""Property → its values, (N,); numbers of an ascii file's float properties as float64."""


def read_elements(path: Path, header: Header, wanted: Sequence[str]) -> dict[str, Columns]:
    """The elements named in `wanted` that the file has.

    Raises InputError: data shorter than the header declares, or other than it.
    """
    source = _Tokens(path, header.size) if header.encoding == "ascii" else _Bytes(path, header)
    found, at = {}, 0
    for element in header.elements:
        _check_length(path, element, source, at)
        columns, at = _read_element(path, element, source, at)
        if element.name in wanted:
            found[element.name] = columns
        if at > source.length:
            raise _cut_short(path, element)
    source.check_end(at)
    return found


def stacked(columns: Columns, names: Sequence[str]) -> np.ndarray | None:
    """(N, k) values of k properties; None unless all of them are there and are no lists."""
    found = [columns.get(name) for name in names]
    plain = [column for column in found if isinstance(column, np.ndarray)]
    return np.stack(plain, axis=1) if len(plain) == len(names) else None


class _Source(Protocol):
    """The data as a run of bytes, or of numbers that text was turned into."""

    unit: str
    length: int

    def size(self, dtype: np.dtype) -> int:
        """Bytes, or numbers, of one value."""
        ...

    def counter(self, dtype: np.dtype) -> Callable[[int], int]:
        """A function that gives the length of a list from where it stands, called once a row."""
        ...

    def table(self, start: int, rows: int, row: int) -> np.ndarray:
        """(rows, row) of equally long rows."""
        ...

    def values(self, table: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
        """(rows, k) values of some columns of a table."""
        ...

    def all_equal(self, table: np.ndarray, dtype: np.dtype, number: int) -> bool:
        """Whether a column, which may hold something else than `dtype`, is `number` throughout."""
        ...

    def gather(self, at: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
        """(M,) values that stand at (M,) places."""
        ...

    def check_end(self, at: int) -> None:
        """Speaks up if the data go on behind the last element."""
        ...


class _Bytes:
    """A binary file."""

    unit = "bytes"

    def __init__(self, path: Path, header: Header):
        assert header.encoding != "ascii"
        self._order: Literal["<", ">"] = header.encoding
        self._path = path
        self.length = path.stat().st_size - header.size
        self._data = np.zeros(0, np.uint8)
        if self.length > 0:
            self._data = np.asarray(np.memmap(path, np.uint8, "r", offset=header.size))
        self._view = self._data.data

    def size(self, dtype: np.dtype) -> int:
        return dtype.itemsize

    def counter(self, dtype: np.dtype) -> Callable[[int], int]:
        if dtype == np.uint8:
            return self._view.__getitem__
        unpack, data = (
            struct.Struct(self._order + dtype.char.replace("l", "q").replace("L", "Q")).unpack_from,
            self._view,
        )
        return lambda at: unpack(data, at)[0]

    def table(self, start: int, rows: int, row: int) -> np.ndarray:
        return self._data[start : start + rows * row].reshape(rows, row)

    def values(self, table: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
        stored = dtype.newbyteorder(self._order)
        if table.size == 0:
            return np.zeros(table.shape, dtype)
        return np.ascontiguousarray(table).view(stored).astype(dtype)

    def all_equal(self, table: np.ndarray, dtype: np.dtype, number: int) -> bool:
        return bool((self.values(table, dtype, "") == number).all())

    def gather(self, at: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
        bytes_ = self._data[at[:, None] + np.arange(dtype.itemsize)]
        return self.values(bytes_, dtype, name).reshape(len(at))

    def check_end(self, at: int) -> None:
        if at < self.length:
            warnings.warn(
                f"{self._path}: {self.length - at:,} bytes behind the last element were not read",
                stacklevel=2,
            )


class _Tokens:
    """A text file: numbers between blanks, wherever its lines break."""

    unit = "numbers"

    def __init__(self, path: Path, start: int):
        self._path = path
        with open(path, "rb") as file:
            file.seek(start)
            self._numbers = _parse(file.read(), path)
        self.length = len(self._numbers)
        self._view = self._numbers.data

    def size(self, dtype: np.dtype) -> int:
        return 1

    def counter(self, dtype: np.dtype) -> Callable[[int], int]:
        numbers = self._view

        def count(at: int) -> int:
            number = numbers[at]
            if number % 1:  # or none at all
                self._whole(np.array([number]), dtype, "the length of a list")
            return int(number)

        return count

    def table(self, start: int, rows: int, row: int) -> np.ndarray:
        return self._numbers[start : start + rows * row].reshape(rows, row)

    def values(self, table: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
        return table.copy() if dtype.kind == "f" else self._whole(table, dtype, name)

    def all_equal(self, table: np.ndarray, dtype: np.dtype, number: int) -> bool:
        return bool((table == number).all())

    def gather(self, at: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
        return self.values(self._numbers[at], dtype, name)

    def check_end(self, at: int) -> None:
        if at < self.length:
            raise InputError(
                f"{self._path}: the header declares {at:,} numbers, the file has {self.length:,}: rows "
                "have other properties than declared; export it again"
            )

    def _whole(self, numbers: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
        limits = np.iinfo(dtype)
        good = (numbers >= limits.min) & (numbers <= limits.max) & (numbers == np.floor(numbers))
        if not good.all():
            raise InputError(
                f"{self._path}: {name} has the value {numbers[~good].ravel()[0]:g}; the header declares "
                f"whole numbers of {limits.min} … {limits.max}: export the file again"
            )
        return numbers.astype(dtype)


def _parse(text: bytes, path: Path) -> np.ndarray:
    """(K,) float64: the numbers in `text`."""
    if not text.strip():
        return np.zeros(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # how numpy tells of what is no number
            return np.fromstring(text, sep=" ")
    except (ValueError, DeprecationWarning):
        raise InputError(f"{path}: {_first_bad_word(text)}; export the file again") from None


def _first_bad_word(text: bytes) -> str:
    for number, line in enumerate(text.splitlines(), start=1):
        for word in line.split():
            try:
                float(word)
            except ValueError:
                shown = word[:32].decode("utf-8", "replace")
                return f"line {number} behind the header has {shown!r}, expected numbers"
    return "holds something that is no number behind the header"


def _cut_short(path: Path, element: Element) -> InputError:
    return InputError(
        f"{path}: cut short within its {element.count:,} × {element.name}; the header declares more "
        "than the file has: copy or export it again"
    )


def _check_length(path: Path, element: Element, source: _Source, at: int) -> None:
    """InputError if not even rows whose lists are all empty would fit."""
    least = sum(source.size(p.count_dtype or p.dtype) for p in element.properties)
    if element.count * least > source.length - at:
        raise InputError(
            f"{path}: the header declares {element.count:,} × {element.name} of at least {least} "
            f"{source.unit}, but only {max(source.length - at, 0):,} are left; the file is cut short or "
            "its header wrong: copy or export it again"
        )


def _read_element(path: Path, element: Element, source: _Source, start: int) -> tuple[Columns, int]:
    """All properties of an element, and where the next one begins."""
    if element.count == 0 or not element.properties:
        empty = {p.name: np.zeros(0, p.dtype) for p in element.properties}
        lists = [p for p in element.properties if p.count_dtype is not None]
        return {**empty, **{p.name: Lists(np.zeros(0, np.int64), empty[p.name]) for p in lists}}, start
    return _read_equal_rows(element, source, start) or _read_rows(path, element, source, start)


def _read_equal_rows(element: Element, source: _Source, start: int) -> tuple[Columns, int] | None:
    """As `_read_element` if every row's lists are as long as the first row's, else None."""
    layout: list[tuple[Property, int, int]] = []  # with place in the row, and length of the list
    at = start
    for prop in element.properties:
        place, length = at - start, 1
        if prop.count_dtype is not None:
            if at + source.size(prop.count_dtype) > source.length:
                return None
            length = source.counter(prop.count_dtype)(at)
            at += source.size(prop.count_dtype)
        at += max(length, 0) * source.size(prop.dtype)
        layout.append((prop, place, length))
    row = at - start
    end = start + element.count * row
    if end > source.length:
        return None
    table, columns = source.table(start, element.count, row), Columns()
    for prop, place, length in layout:
        if prop.count_dtype is not None:
            first = place + source.size(prop.count_dtype)
            if length < 0 or not source.all_equal(table[:, place:first], prop.count_dtype, length):
                return None
            place = first
        items = source.values(
            table[:, place : place + length * source.size(prop.dtype)], prop.dtype, prop.name
        )
        if prop.count_dtype is None:
            columns[prop.name] = items[:, 0]
        else:
            columns[prop.name] = Lists(np.full(element.count, length), items.ravel())
    return columns, end


def _read_rows(path: Path, element: Element, source: _Source, at: int) -> tuple[Columns, int]:
    """As `_read_element`, row after row: where a row begins, the lists before it tell."""
    starts = {prop.name: array("q") for prop in element.properties}
    counts = {prop.name: array("q") for prop in element.properties}
    steps = [
        (
            source.size(prop.dtype),
            source.size(prop.count_dtype) if prop.count_dtype else 0,
            source.counter(prop.count_dtype) if prop.count_dtype else None,
            starts[prop.name].append,
            counts[prop.name].append,
        )
        for prop in element.properties
    ]
    end = source.length
    for _ in range(element.count):
        for size, count_size, count, add_start, add_count in steps:
            length = 1
            if count is not None:
                if at + count_size > end:
                    raise _cut_short(path, element)
                length = count(at)
                at += count_size
                if length < 0:
                    raise InputError(
                        f"{path}: a list of its {element.name} elements has a length of {length}; "
                        "the file is damaged: copy or export it again"
                    )
            add_start(at)
            add_count(length)
            at += length * size
        if at > end:
            raise _cut_short(path, element)
    columns = Columns()
    for prop, (size, *_) in zip(element.properties, steps, strict=True):
        count = np.array(counts[prop.name], np.int64)
        begin = np.array(starts[prop.name], np.int64)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        items = source.gather(np.repeat(begin, count) + within * size, prop.dtype, prop.name)
        columns[prop.name] = items if prop.count_dtype is None else Lists(count, items)
    return columns, at
