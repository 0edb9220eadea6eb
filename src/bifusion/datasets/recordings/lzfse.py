"""LZFSE, Apple's compression, in which Record3D stores depth (package pyliblzfse, extra `phone`).

Source: lzfse/lzfse, src/lzfse_internal.h: a stream is a run of blocks, each with its kind and the number
of bytes that it unpacks to, ended by `bvx$`. Blocks are looked at before anything is unpacked, so that a
stream which says it is larger than the picture takes no memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from bifusion.errors import InputError

END, STORED, LZVN, LZFSE = b"bvx$", b"bvx-", b"bvxn", b"bvx2"
LEAST_BLOCK = 8192
"""Bytes that all but one block of a stream are worth; real blocks are worth more."""


def unpack(data: bytes, size: int, where: str) -> bytes:
    """The `size` bytes that `data` holds, which may be stored as they are.

    Raises InputError: damaged, of another size, or compressed without the package to read it.
    """
    if len(data) == size:
        return data
    blocks = _listed(data, size, where)
    said = sum(length for _, length, _ in blocks)
    if said != size:
        raise InputError(f"{where}: unpacks to {said:,} bytes; expected {size:,} of a picture")
    if all(kind == STORED for kind, _, _ in blocks):
        return b"".join(payload for _, _, payload in blocks)
    try:
        import liblzfse  # pyright: ignore[reportMissingImports]  # needs a compiler, so not in every set-up
    except ImportError:
        raise InputError(
            f"{where}: is compressed by LZFSE: pip install pyliblzfse (it needs a C compiler), or "
            "export the recording as 'EXR + JPG sequence' in Record3D"
        ) from None
    try:
        unpacked = liblzfse.decompress(data)
    except (liblzfse.error, MemoryError) as error:
        raise InputError(f"{where}: is a damaged LZFSE stream ({error}); copy it again") from None
    if len(unpacked) != size:
        raise InputError(f"{where}: unpacks to {len(unpacked):,} bytes; expected {size:,} of a picture")
    return unpacked


def stated_bytes(data: bytes, most: int, where: str) -> int:
    """How many bytes `data` says it unpacks to; its own length where it is stored as it is.

    Raises InputError: damaged, more than `most`.
    """
    if data[:3] != END[:3]:
        return len(data)
    said = sum(length for _, length, _ in _listed(data, most, where))
    if said > most:
        raise InputError(f"{where}: unpacks to {said:,} bytes; expected at most {most:,}")
    return said


def _listed(data: bytes, size: int, where: str) -> list[tuple[bytes, int, bytes]]:
    try:
        return list(_blocks(data, 2 + size // LEAST_BLOCK))
    except (struct.error, ValueError) as error:
        raise InputError(f"{where}: is no LZFSE stream ({error}); copy the recording again") from None


def _blocks(data: bytes, most: int) -> Iterator[tuple[bytes, int, bytes]]:
    """Kind, unpacked length and payload of each block."""
    at = 0
    for _ in range(most):
        kind = data[at : at + 4]
        if kind == END:
            return
        if kind not in (STORED, LZVN, LZFSE):
            raise ValueError(f"a block begins with {kind!r}")
        (length,) = struct.unpack_from("<I", data, at + 4)
        begin, end = at + _header_bytes(data, at, kind), at + _block_bytes(data, at, kind, length)
        if end > len(data):
            raise ValueError("it is cut short")
        yield kind, length, data[begin:end]
        at = end
    raise ValueError("it has no end")


def _header_bytes(data: bytes, at: int, kind: bytes) -> int:
    if kind == LZFSE:
        return struct.unpack_from("<I", data, at + 24)[0]
    return 8 if kind == STORED else 12


def _block_bytes(data: bytes, at: int, kind: bytes, length: int) -> int:
    """Header and payload, which for LZFSE's own blocks is of literals and of matches."""
    if kind == STORED:
        return 8 + length
    if kind == LZVN:
        return 12 + struct.unpack_from("<I", data, at + 8)[0]
    literals, matches, header = struct.unpack_from("<3Q", data, at + 8)
    return (header & 0xFFFFFFFF) + (literals >> 20 & 0xFFFFF) + (matches >> 40 & 0xFFFFF)
