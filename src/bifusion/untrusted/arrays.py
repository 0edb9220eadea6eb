"""NumPy's .npy and .npz files. Format: numpy.lib.format, versions 1 and 2 (3 has names of fields, which
no array here has). What a header declares must be what the file holds, before memory is taken for it."""

from __future__ import annotations

import math
import sys
import tokenize
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from bifusion.errors import InputError, first_line
from bifusion.untrusted.files import ADVICE, MISSING, ZIP_FAULTS, ZIP_METHODS, open_regular

MOST_BYTES = 1 << 30
"""Of all arrays of an .npz file: those of ten million points of a scene take 400 MB."""
_READERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
_HEADER_ERRORS = (
    ValueError, TypeError, KeyError, EOFError, SyntaxError, tokenize.TokenError, RecursionError,
    MemoryError,
)  # fmt: skip
"""What numpy says of headers; MemoryError is what Python's parser says of too many brackets."""


class _Malformed(Exception):
    """What is wrong with an array."""


class _OfOther(_Malformed):
    """It is an array, of something else than numbers or text."""


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int
    """Byte at which the numbers begin."""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def order(self) -> Literal["C", "F"]:
        return "F" if self.fortran else "C"


def load_npy(path: Path, *, missing: str = MISSING, advice: str = ADVICE) -> np.ndarray:
    """The array in `path`, a read-only memory map. InputError: missing, damaged, no array of numbers or
    text."""
    with open_regular(path, missing=missing, advice=advice) as file:
        try:
            header = _read_header(file, path.stat().st_size)
        except _OfOther as error:
            raise InputError(
                f"{path}: is {error}; expected numbers: save it as such (.astype(float) of objects, "
                "numpy.lib.recfunctions.structured_to_unstructured of fields)"
            ) from None
        except _Malformed as error:
            raise InputError(f"{path}: truncated or no .npy file ({error}); {advice}") from None
        if header.bytes == 0:  # nothing to map
            return np.zeros(header.shape, header.dtype)
        array = np.memmap(
            file, header.dtype, "r", offset=header.begin, shape=header.shape, order=header.order
        )
    if not _is_text_or_numbers(array):
        raise InputError(f"{path}: holds what is no text; {advice}")
    return array


def load_npz(
    path: Path,
    *,
    keys: Collection[str] | None = None,
    most_bytes: int = MOST_BYTES,
    missing: str = MISSING,
    advice: str = ADVICE,
) -> dict[str, np.ndarray]:
    """The arrays in `path` by name, of those in `keys` (None: all), in memory.

    InputError: missing, damaged, encrypted, arrays of more than `most_bytes` in all.
    """
    with open_regular(path, missing=missing, advice=advice) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = {
                    entry.filename.removesuffix(".npy"): entry
                    for entry in archive.infolist()
                    if entry.filename.endswith(".npy")
                }
                wanted = [name for name in entries if keys is None or name in keys]
                declared = sum(entries[name].file_size for name in wanted)
                if declared > most_bytes:
                    raise _Malformed(
                        f"its arrays take {declared:,} bytes, at most {most_bytes:,} are read"
                    )
                return {name: _read_entry(archive, entries[name]) for name in wanted}
        except (_Malformed, *ZIP_FAULTS) as error:
            reason = str(error)[:300]
            raise InputError(f"{path}: not a readable .npz ({reason}); {advice}") from None


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    if entry.compress_type not in ZIP_METHODS or entry.flag_bits & 1:
        raise _Malformed(f"{entry.filename[:60]!r} is encrypted, or compressed as numpy never does")
    with archive.open(entry) as stream:
        data = stream.read(entry.file_size)  # no more than was counted, whatever it swells to
    header = _read_header(BytesIO(data), len(data))
    flat: np.ndarray = (
        np.frombuffer(data, header.dtype, math.prod(header.shape), header.begin)
        if header.bytes
        else np.zeros(math.prod(header.shape), header.dtype)
    )
    if not _is_text_or_numbers(flat):
        raise _Malformed(f"{entry.filename[:60]!r} holds what is no text")
    return flat.reshape(header.shape, order="F" if header.fortran else "C").copy()


def _is_text_or_numbers(array: np.ndarray) -> bool:
    """Whether text has characters alone: numpy hands on what is none, and Python breaks on it later."""
    if array.dtype.kind != "U":
        return True
    codes = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    return int(codes.max(initial=0)) <= sys.maxunicode


def _read_header(file: BytesIO | BinaryIO, size: int) -> _Header:
    """The header of an array in a file of `size` bytes, which ends with its numbers."""
    try:
        major, _ = np.lib.format.read_magic(file)
        if major not in _READERS:
            raise _Malformed(f"an array of format version {major}")
        shape, fortran, dtype = _READERS[major](file)
    except _HEADER_ERRORS as error:
        raise _Malformed(first_line(error)) from None
    header = _Header(shape, fortran, dtype, file.tell())
    plain = dtype.kind in "biufUS" and dtype.subdtype is None
    if not plain or len(shape) > 32 or any(type(n) is not int or n < 0 for n in shape):
        kind = _Malformed if plain else _OfOther
        raise kind(f"an array of {str(dtype)[:60]} and shape {str(shape)[:60]}")
    if header.bytes > size - header.begin or max(shape, default=0) > max(size, 1):
        raise _Malformed(
            f"it declares {str(shape)[:60]} of {dtype}, of which it holds {size - header.begin:,} bytes"
        )
    return header
