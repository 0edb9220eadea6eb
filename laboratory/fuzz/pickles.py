"""Changes to a pickle, instruction by instruction."""

from __future__ import annotations

import pickletools

import numpy as np

_SHORT = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.arg is None]
"""Instructions without an argument."""
_LONG = (
    b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\x7f", b"I99999999999999999999\n", b"L1L\n", b"F1e999\n", b"Vx\\ud800\n",
    b"X\xff\xff\xff\x7f", b"X\x01\0\0\0a", b"T\xff\xff\xff\xff", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"Pid\n",
    b"h\x00", b"h\x01", b"q\x00", b"j\xff\xff\xff\x7f", b"g0\n", b"p0\n", b"G\x7f\xf0\0\0\0\0\0\0",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80\xff", b"\x82\x01",
)  # fmt: skip


def changed_pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """Instructions added, gone, repeated, or in another place; a tuple doubled again and again."""
    try:
        places = [position for _, _, position in pickletools.genops(data) if position is not None]
    except (ValueError, IndexError, KeyError, OverflowError, EOFError):
        places = []
    if len(places) < 3:
        return data + _new(rng)
    begin, end = sorted(int(k) for k in rng.integers(0, len(places), 2))
    start, stop = places[begin], places[min(end, begin + 8)]
    what = int(rng.integers(6))
    if what == 0:
        return data[:start] + _new(rng) + data[start:]
    if what == 1:
        return data[:start] + data[stop:]
    if what == 2:
        return data[:stop] + data[start:stop] * int(rng.integers(1, 200)) + data[stop:]
    if what == 3:
        rest = data[:start] + data[stop:]
        at = places[int(rng.integers(len(places)))] % (len(rest) + 1)
        return rest[:at] + data[start:stop] + rest[at:]
    if what == 4:
        return data[:start] + _new(rng) + data[places[min(begin + 1, len(places) - 1)] :]
    return data[:start] + b"2\x86" * int(rng.integers(1, 200)) + data[start:]


def _new(rng: np.random.Generator) -> bytes:
    among = _SHORT if rng.random() < 0.6 else _LONG
    return b"".join(among[int(k)] for k in rng.integers(0, len(among), int(rng.integers(1, 4))))
