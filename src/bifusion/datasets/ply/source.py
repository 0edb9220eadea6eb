"""The data of a PLY file as a run of bytes, or of the numbers that its text is turned into.

Both are addressed alike, so that `body.py` reads rows and lists of either.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from bifusion.datasets.ply.header import Header
from bifusion.errors import InputError
from bifusion.untrusted.files import open_regular

MOST_ASCII_BYTES = 1 << 30
"""Text becomes four times as large when it is read."""


def open_source(path: Path, header: Header) -> Source:
    """The data behind the header."""
    return _Tokens(path, header.size) if header.encoding == "ascii" else _Bytes(path, header)


@runtime_checkable
class Source(Protocol):
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
        with open_regular(path, most_bytes=MOST_ASCII_BYTES, advice="export it as binary") as file:
            file.seek(start)
            self._numbers = _parse(file.read(), path)
        self.length = len(self._numbers)
        self._view = self._numbers.data

    def size(self, dtype: np.dtype) -> int:
        return 1

    def counter(self, dtype: np.dtype) -> Callable[[int], int]:
        numbers, limits = self._view, np.iinfo(dtype)

        def count(at: int) -> int:
            number = numbers[at]
            if number % 1 or not limits.min <= number <= limits.max:  # or none at all
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
