"""depth.bin of ScanNet++: all depth maps of a recording in one file.

Source: scannetpp/scannetpp, iphone/prepare_iphone_data.py. Either one raw deflate stream of float32
metres, frame after frame; or for each frame its length (uint32, little endian) and then an LZ4 block of
uint16 millimetres or a raw deflate stream of float32 metres. Frames are 192 rows of 256.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bifusion.datasets.recordings.lz4_block import unpack_lz4
from bifusion.errors import InputError

SHAPE = (192, 256)
PIXELS = SHAPE[0] * SHAPE[1]
MOST_BLOCK = 4 * PIXELS + 4096
"""Bytes of a packed frame: noise hardly grows when it is packed."""
CHUNK = 1 << 16


class DepthBin:
    """Depth maps by number, decoded when they are asked for.

    Of the form that is one stream, a frame is reached by unpacking those before it: reading in order
    unpacks each once.
    """

    def __init__(self, path: Path):
        self.path = path
        self._blocks = _find_blocks(path)
        self._stream = None if self._blocks else _Stream(path)

    def __len__(self) -> int:
        """Frames; of the form that is one stream, unknown without unpacking it: as many as asked for."""
        return len(self._blocks) if self._blocks else 1 << 30

    def read_m(self, index: int) -> np.ndarray:
        """(192, 256) float32 metres, 0 where nothing was measured. InputError: damaged, or no frame."""
        where = f"{self.path}: frame {index}"
        try:
            depth_m = self._block_m(index) if self._stream is None else self._stream.frame(index)
        except (zlib.error, ValueError, OSError) as error:
            raise InputError(f"{where}: cannot be unpacked ({error}); download it again") from None
        return np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, np.float32(0))

    def _block_m(self, index: int) -> np.ndarray:
        at, length = self._blocks[index]
        with open(self.path, "rb") as file:
            file.seek(at)
            data = file.read(length)
        try:
            raw = np.frombuffer(unpack_lz4(data, 2 * PIXELS), "<u2")
            metres = raw.astype(np.float32) / np.float32(1000)
        except ValueError:
            unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, 4 * PIXELS + 1)
            metres = _floats(unpacked)
        return metres.reshape(SHAPE)


class _Stream:
    """Frames of one deflate stream, from the beginning on."""

    def __init__(self, path: Path):
        self._path, self._next = path, 0
        self._restart()

    def _restart(self) -> None:
        self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        self._packed, self._at, self._next = b"", 0, 0

    def frame(self, index: int) -> np.ndarray:
        if index < self._next:
            self._restart()
        with open(self._path, "rb") as file:
            file.seek(self._at)
            while True:
                data = self._bytes(file, 4 * PIXELS)
                self._next += 1
                if self._next > index:
                    return _floats(data).reshape(SHAPE)

    def _bytes(self, file: BinaryIO, count: int) -> bytes:
        parts, have = [], 0
        while have < count:
            if not self._packed:
                self._packed = file.read(CHUNK)
                self._at += len(self._packed)
            last = not self._packed  # what is left is within the unpacker
            parts.append(self._unpacker.decompress(self._packed, count - have))
            self._packed = self._unpacker.unconsumed_tail
            have += len(parts[-1])
            if last and not parts[-1]:
                self._restart()
                raise ValueError("the stream ends before it")
        return b"".join(parts)


def _floats(data: bytes) -> np.ndarray:
    if len(data) != 4 * PIXELS:
        raise ValueError(f"it has {len(data):,} bytes; expected {4 * PIXELS:,}")
    return np.frombuffer(data, "<f4").astype(np.float32)


def _find_blocks(path: Path) -> list[tuple[int, int]]:
    """Place and length of each frame's block; none where the file is no run of blocks."""
    size, at, found = path.stat().st_size, 0, []
    with open(path, "rb") as file:
        while at + 4 <= size:
            file.seek(at)
            (length,) = struct.unpack("<I", file.read(4))
            if not 0 < length <= MOST_BLOCK:
                return found if len(found) > 1 else []
            if at + 4 + length > size:
                return found
            found.append((at + 4, length))
            at += 4 + length
    return found
