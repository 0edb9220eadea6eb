"""Which hostile inputs can stand for a file, by what it holds."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from io import BytesIO

from laboratory.hostile.archives import torch_kinds, zip_kinds
from laboratory.hostile.arrays import npy_kinds
from laboratory.hostile.binaries import picture_kinds, ply_kinds, safetensors_kinds
from laboratory.hostile.put import Kinds, in_place_of_a_file
from laboratory.hostile.texts import is_json, is_text, json_kinds, text_kinds

PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"BM", b"P6")


def kinds_for(data: bytes) -> Kinds:
    """All that can stand for a file of this content, by kind."""
    yield from in_place_of_a_file(data)
    for kinds in _of_content(data):
        yield from kinds


def _of_content(data: bytes) -> Iterable[Kinds]:
    if data[:4] == b"ply\n":
        yield ply_kinds(data)
    if data[:6] == b"\x93NUMPY":
        yield npy_kinds(data)
    elif zipfile.is_zipfile(BytesIO(data)):
        yield zip_kinds(data)
        yield torch_kinds(data)
    elif data[:1] == b"\x80":
        yield torch_kinds(data)
    elif data.startswith(PICTURES):
        yield picture_kinds(data)
    elif data[8:9] == b"{" and 8 + int.from_bytes(data[:8], "little") <= len(data):
        yield safetensors_kinds(data)
    elif is_json(data):
        yield json_kinds(data)
    elif is_text(data):
        yield text_kinds(data)
