"""NumPy's arrays that declare what they do not hold, or hold what no scene can."""

from __future__ import annotations

import io
import struct

import numpy as np

from laboratory.hostile.put import Kinds, content

SHAPES = {
    "10^12 rows": "(1000000000000, 3)", "-1 rows": "(-1, 3)", "10^42 rows": f"(1{'0' * 42},)",
    "10^9 empty rows": "(1000000000, 0)", "a shape of no number": "(1L,)",
    "300 brackets for a shape": "(" * 300 + ")" * 300,
}  # fmt: skip


def npy_kinds(data: bytes) -> Kinds:
    for name, changed in other_arrays(data).items():
        yield f"npy: {name}", content(changed)


def other_arrays(data: bytes) -> dict[str, bytes]:
    """What the content of an .npy file may be instead, by kind."""
    array = np.lib.format.read_array(io.BytesIO(data))
    return {name: npy(shape) for name, shape in SHAPES.items()} | {
        "objects": npy("(1,)", "'|O'"),
        "records": npy("(1,)", "[('a', '<f4')]", bytes(4)),
        "a header of 2 GB": b"\x93NUMPY\x02\0" + struct.pack("<I", (1 << 31) - 1),
        "no rows": _saved(np.atleast_1d(array)[:0]),
        "one dimension more": _saved(array[None]),
        "text": _saved(np.full(array.shape, "x")),
        **{name: _saved(other) for name, other in _filled(array).items()},
    }


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    """A file that declares this shape."""
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + data


def _filled(array: np.ndarray) -> dict[str, np.ndarray]:
    """The array with numbers of its kind that none should be."""
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        return {
            "the lowest number": np.full_like(array, limits.min),
            "the highest number": np.full_like(array, limits.max),
            "2^62": np.full(array.shape, 2**62, np.int64),
        }
    made: dict[str, np.ndarray] = {}
    if array.dtype.kind == "f":
        for name, number in (("NaN", np.nan), ("infinity", np.inf), ("1e30", 1e30)):
            made[f"{name} everywhere"] = np.full_like(array, number)
            made[f"{name} at its end"] = last = array.copy()
            last.reshape(-1)[-1:] = number
    return made


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
