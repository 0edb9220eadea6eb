"""The data of a PLY file as arrays. No size that the file declares is believed before the file is seen
to be that long, and no row is handled in Python unless rows differ in length."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bifusion.datasets.ply.header import Element, Header, Property
from bifusion.datasets.ply.source import Source, open_source
from bifusion.errors import InputError


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
    source = open_source(path, header)
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


def _cut_short(path: Path, element: Element) -> InputError:
    return InputError(
        f"{path}: cut short within its {element.count:,} × {element.name}; the header declares more "
        "than the file has: copy or export it again"
    )


def _check_length(path: Path, element: Element, source: Source, at: int) -> None:
    """InputError if not even rows whose lists are all empty would fit."""
    least = sum(source.size(p.count_dtype or p.dtype) for p in element.properties)
    if element.count * least > source.length - at:
        raise InputError(
            f"{path}: the header declares {element.count:,} × {element.name} of at least {least} "
            f"{source.unit}, but only {max(source.length - at, 0):,} are left; the file is cut short or "
            "its header wrong: copy or export it again"
        )


def _read_element(path: Path, element: Element, source: Source, start: int) -> tuple[Columns, int]:
    """All properties of an element, and where the next one begins."""
    if element.count == 0 or not element.properties:
        empty = {p.name: np.zeros(0, p.dtype) for p in element.properties}
        lists = [p for p in element.properties if p.count_dtype is not None]
        return {**empty, **{p.name: Lists(np.zeros(0, np.int64), empty[p.name]) for p in lists}}, start
    return _read_equal_rows(element, source, start) or _read_rows(path, element, source, start)


def _read_equal_rows(element: Element, source: Source, start: int) -> tuple[Columns, int] | None:
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


def _read_rows(path: Path, element: Element, source: Source, at: int) -> tuple[Columns, int]:
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
                if at + length * size > end:
                    raise _cut_short(path, element)
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
