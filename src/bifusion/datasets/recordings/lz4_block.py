"""LZ4 blocks, unpacked without a package: depth maps are small.

Source: lz4/lz4, doc/lz4_Block_format.md. A block is a run of sequences: a byte with two lengths, more
bytes for lengths of 15 and above, literals, and, but for the last, a distance back and a length to copy
from there.
"""

from __future__ import annotations

LEAST_MATCH = 4
MORE = 15
"""A length that goes on in the bytes that follow."""


def unpack_lz4(data: bytes, size: int) -> bytes:
    """The `size` bytes that a block holds. ValueError: it holds others, or is damaged."""
    out, at = bytearray(), 0
    try:
        while True:
            token = data[at]
            length, at = _length(data, at + 1, token >> 4)
            out += data[at : at + length]
            at += length
            if at >= len(data) or len(out) > size:
                break
            distance = data[at] | data[at + 1] << 8
            length, at = _length(data, at + 2, token & 15)
            copy_back(out, distance, length + LEAST_MATCH)
    except IndexError:
        raise ValueError("it is cut short") from None
    if at != len(data) or len(out) != size:
        raise ValueError(f"it holds other than {size:,} bytes")
    return bytes(out)


def _length(data: bytes, at: int, length: int) -> tuple[int, int]:
    if length == MORE:
        while True:
            more = data[at]
            length, at = length + more, at + 1
            if more != 255:
                break
    return length, at


def copy_back(out: bytearray, distance: int, length: int) -> None:
    """Appends `length` bytes from `distance` back, which may overlap with what is appended. ValueError:
    nothing lies there."""
    start = len(out) - distance
    if distance == 0 or start < 0:
        raise ValueError("it points before its beginning")
    piece = bytes(out[start : start + length])
    out += (piece * (length // len(piece) + 1))[:length]
