"""LZF, as PCD files pack their points.

Source: LibLZF (Marc Lehmann), lzf_d.c. A stream is a run of parts: a byte below 32 and one more literals
than it says; or three bits of length, five and eight bits of distance, and a byte of more length where
the three bits are all set.
"""

from __future__ import annotations

from bifusion.datasets.recordings.lz4_block import copy_back

MOST_GAIN = 88
"""A part of three bytes stands for 264 at most."""
LITERALS = 32
LONG = 7
LEAST = 2


def unpack_lzf(data: bytes, size: int) -> bytes:
    """The `size` bytes that `data` holds. ValueError: it holds others, or is damaged."""
    out, at, end = bytearray(), 0, len(data)
    try:
        while at < end and len(out) <= size:
            control = data[at]
            at += 1
            if control < LITERALS:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == LONG:
                length += data[at]
                at += 1
            copy_back(out, ((control & 31) << 8 | data[at]) + 1, length + LEAST)
            at += 1
    except IndexError:
        raise ValueError("it is cut short") from None
    if at != end or len(out) != size:
        raise ValueError(f"it holds other than {size:,} bytes")
    return bytes(out)
