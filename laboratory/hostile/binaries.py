"""Pictures, weights and meshes that declare what they do not hold, or hold too much."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib

import numpy as np
from PIL import Image

from laboratory.hostile.archives import swollen
from laboratory.hostile.put import LINE_BYTES, Kinds, content

HEADERS = {"2^62": 2**62, "2^64 - 1": 2**64 - 1, "100 MB": 10**8, "0": 0}
FIELDS = {
    "shape 10^12": ("shape", [10**12]), "shape -1": ("shape", [-1]), "shape 2^64": ("shape", [2**64]),
    "behind its end": ("data_offsets", [0, 10**12]), "backwards": ("data_offsets", [8, 0]),
    "of no type": ("dtype", "X9"), "of another type": ("dtype", "F64"), "of bytes": ("dtype", "U8"),
}  # fmt: skip
NOT_FINITE = {"NaN": np.nan, "infinity": np.inf, "3e38": 3e38}
COUNTS = {
    "10^12": str(10**12), "-1": "-1", "2^64": str(2**64), "10^400": "1" + "0" * 400, "0": "0",
    "NaN": "nan", "a digit of another script": "٣",
}  # fmt: skip


def safetensors_kinds(data: bytes) -> Kinds:
    """Its layout: 8 bytes of the header's length, a header in JSON, numbers."""
    begin = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:begin]), data[begin:]
    for name, declared in HEADERS.items():
        yield f"safetensors: a header of {name} bytes", content(struct.pack("<Q", declared) + data[8:])
    first = next(key for key in header if key != "__metadata__")
    for name, (field, value) in FIELDS.items():
        changed = {**header, first: {**header[first], field: value}}
        yield f"safetensors: {name}", content(_headed(json.dumps(changed).encode()) + body)
    for name, number in NOT_FINITE.items():
        yield f"safetensors: {name} everywhere", content(data[:begin] + _filled(body, number))
    yield "safetensors: brackets for a header", content(_headed(b"[" * 50_000))
    yield "safetensors: nothing in it", content(_headed(b"{}"))


def picture_kinds(data: bytes) -> Kinds:
    """Whatever the picture is: formats are told by their content."""
    for side in (0, 10_000, 50_000, 2**31 - 1):
        yield f"picture: {side:,}²", content(_png(side, b""))
    yield "picture: a JPEG of 65,535²", content(_large_jpeg())
    yield "picture: 2 GB of pixels and of text in 4 MB", content(_png(4, b"\x78\x01" + swollen()))
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    yield "picture: a program", content(program)
    yield (
        "picture: SVG",
        content(b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/dev/zero"/></svg>'),
    )


def ply_kinds(data: bytes) -> Kinds:
    head, end, body = data.partition(b"end_header\n")
    count = re.search(rb"element vertex (\d+)", head)
    if count is None:
        raise ValueError("a sample without vertices")
    for name, number in COUNTS.items():
        changed = head[: count.start(1)] + number.encode() + head[count.end(1) :]
        yield f"PLY: {name} vertices", content(changed + end + body)
    long, times = b"x" * LINE_BYTES, LINE_BYTES // 20
    for name, lines in {
        "a comment of 50 MB": b"comment " + long + b"\n",
        "a name of 50 MB": b"property float " + long + b"\n",
        "50 MB of comments": b"comment x yz abcdef\n" * times,
        "100,000 properties": b"".join(b"property float p%d\n" % k for k in range(100_000)),
        "100,000 elements": b"element e 9\n" * 100_000,
        "an element of 10^12": b"element e 1000000000000\nproperty float a\n",
        "a list of 10^12": b"element e 1000000000000\nproperty list uint float a\n",
    }.items():
        yield f"PLY: {name}", content(head + lines + end + body)
    yield "PLY: a name again", content(head.replace(b" y\n", b" x\n") + end + body)
    yield "PLY: of its other byte order", content(_other_order(head) + end + body)
    for name, number in NOT_FINITE.items():
        yield f"PLY: {name} everywhere", content(head + end + _filled(body, number))
    yield "PLY: lengths of 2^32 - 1", content(head + end + body[:60] + b"\xff" * len(body[60:]))


# -------------------------------------------------------------------------------------------- making


def _headed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def _filled(body: bytes, number: float) -> bytes:
    """As many bytes, each four the same number."""
    return np.full(len(body) // 4, number, "<f4").tobytes() + body[len(body) // 4 * 4 :]


def _other_order(head: bytes) -> bytes:
    order = (b"little", b"big") if b"little" in head else (b"big", b"little")
    return head.replace(*order)


def _png(side: int, packed: bytes) -> bytes:
    """So many pixels a side by its header, with these as its pixels, and as a comment too."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    text = _chunk(b"zTXt", b"Comment\0\0" + packed) if packed else b""
    return b"\x89PNG\r\n\x1a\n" + head + text + _chunk(b"IDAT", packed)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _large_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "jpeg")
    data = file.getvalue()
    at = data.index(b"\xff\xc0") + 5  # height and width in the frame's header
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]
