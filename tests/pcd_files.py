"""Clouds as PCL and its kin write them: text, binary, compressed."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from bifusion.datasets.ply.mesh import Mesh

PLAIN = {"f": "F", "u": "U", "i": "I"}


def write_pcd(
    path: Path, mesh: Mesh, data: str = "binary", rgb: str = "F", width: int | None = None
) -> Path:
    """A cloud with normals where `mesh` has some, and eight bytes of padding. `rgb`: the type that is
    said of a colour's four bytes, F or U, or "channels" for three fields."""
    color = mesh.color.astype(np.uint32)
    bits = 0xFF000000 | color[:, 0] << 16 | color[:, 1] << 8 | color[:, 2]
    fields = [(axis, mesh.coord[:, k].astype(np.float32)) for k, axis in enumerate("xyz")]
    if rgb == "channels":
        fields += [(name, mesh.color[:, k]) for k, name in enumerate("rgb")]
    else:
        fields.append(("rgb", bits.view(np.float32) if rgb == "F" else bits))
    if mesh.normal is not None:
        fields += [(f"normal_{axis}", mesh.normal[:, k].astype("f4")) for k, axis in enumerate("xyz")]
    names, columns = [name for name, _ in fields], [column for _, column in fields]
    counts, row = ["1"] * len(names), list(columns)
    if data == "binary":
        names, counts = [*names, "_"], [*counts, "8"]
        row.append(np.zeros((len(color), 8), np.uint8))
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format", "VERSION 0.7", f"FIELDS {' '.join(names)}",
        f"SIZE {' '.join(str(column.dtype.itemsize) for column in row)}",
        f"TYPE {' '.join(PLAIN[column.dtype.kind] for column in row)}", f"COUNT {' '.join(counts)}",
        f"WIDTH {width or len(color)}", f"HEIGHT {len(color) // width if width else 1}",
        "VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {len(color)}", f"DATA {data}", "",
    ]  # fmt: skip
    head = "\n".join(lines).encode()
    if data == "ascii":
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return _write(path, head + b"".join(f"{' '.join(map(repr, one))}\n".encode() for one in rows))
    if data == "binary":
        table = np.concatenate([one.reshape(len(color), -1).view(np.uint8) for one in row], axis=1)
        return _write(path, head + table.tobytes())
    plain = b"".join(column.tobytes() for column in columns)
    packed = pack_lzf(plain)
    return _write(path, head + struct.pack("<II", len(packed), len(plain)) + packed)


def pack_lzf(plain: bytes) -> bytes:
    """LZF with a match wherever three bytes were met within the last 8 KB."""
    out, at, met, literals = bytearray(), 0, dict[bytes, int](), bytearray()

    def flush() -> None:
        for start in range(0, len(literals), 32):
            part = literals[start : start + 32]
            out.append(len(part) - 1)
            out.extend(part)
        literals.clear()

    while at < len(plain):
        key = plain[at : at + 3]
        before = met.get(key, -(1 << 20))
        met[key] = at
        distance = at - before - 1
        if len(key) < 3 or distance >= 1 << 13:
            literals.append(plain[at])
            at += 1
            continue
        length = 3
        while length < 264 and at + length < len(plain) and plain[before + length] == plain[at + length]:
            length += 1
        flush()
        short = min(length - 2, 7)
        out.append(short << 5 | distance >> 8)
        if short == 7:
            out.append(length - 2 - 7)
        out.append(distance & 255)
        at += length
    flush()
    return bytes(out)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
