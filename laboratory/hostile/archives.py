"""Archives (.npz, .pth, .pt, .r3d) whose entries swell, are encrypted, lead out, or hold programs."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from functools import partial

import hostile_pickles
from laboratory.hostile.arrays import other_arrays
from laboratory.hostile.put import CALLED, Kinds, content

BOMB_BYTES = 2_000_000_000
DIRECTORY = b"PK\x01\x02"
"""How an entry of an archive's directory begins."""
DECLARED = {
    "encrypted": (8, b"\1\0"), "an unknown method": (10, b"\x63\0"), "0 bytes declared": (24, bytes(4)),
    "4 GB declared": (24, b"\xff\xff\xff\xff"), "4 GB packed declared": (20, b"\xff\xff\xff\xff"),
    "behind its end": (42, b"\xff\xff\xff\x7f"),
}  # fmt: skip
"""What a directory may say instead: from which byte of an entry, and what."""
MOST_ENTRIES = 4
"""Of an archive, that are changed one at a time."""


def zip_kinds(data: bytes) -> Kinds:
    for name, method in (("deflated", 8), ("bzip2", 12), ("lzma", 14)):
        yield f"zip: {name} entries", content(_zipped(_entries(data), method))
    for name, (at, value) in DECLARED.items():
        yield f"zip: {name}", content(_with_directory(data, at, value))
    entries = _entries(data)
    for number, (name, inside) in enumerate(entries[:MOST_ENTRIES]):
        others = [*entries[:number], *entries[number + 1 :]]
        yield "zip: an entry missing", content(_zipped(others))
        yield "zip: an entry twice", content(_zipped([*entries, (name, inside[:1])]))
        yield "zip: an entry upwards", content(_zipped([*others, (f"../../{name}", inside)]))
        yield "zip: control characters", content(_zipped([*others, (f"\x1b[2J{name}", inside)]))
        yield "zip: an entry of 2 GB in 2 MB", content(_bomb(others, name))
        if inside[:6] == b"\x93NUMPY":
            for kind, changed in other_arrays(inside).items():
                yield f"npz: {kind}", content(_zipped([*others, (name, changed)]))


def torch_kinds(data: bytes) -> Kinds:
    """Checkpoints as torch.save writes them, and their pickles alone."""
    for name, made in _pickles().items():
        yield f"torch: {name}", partial(hostile_pickles.write_zip, data=made)
        yield f"torch: {name}, bare", content(made)


def _pickles() -> dict[str, bytes]:
    mark, deep = hostile_pickles.MARK, 10**5
    number = b"\x8b" + struct.pack("<i", 25_000) + b"\x7f" * 25_000
    return {
        "a tuple doubled 140 times": mark + b"K\x01" + b"2\x86" * 140 + b".",
        "10^5 lists within each other": mark + b"]" * deep + b"a" * (deep - 1) + b".",
        "a tensor of 2^62 numbers": _tensor(2**62, (2**62,), (1,)),
        "a tensor of shape -1": _tensor(4, (-1,), (1,)),
        "a tensor beyond its storage": _tensor(4, (1000, 1000), (1000, 1)),
        "a number of 200,000 bits": mark + number + b".",
        "no end": mark + b"}" * 1000,
    } | {f"a call by {name}": made for name, made in hostile_pickles.calls(f"touch {CALLED}").items()}


def _tensor(numel: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    made = hostile_pickles.tensor(hostile_pickles.storage(numel), shape, stride)
    return hostile_pickles.state_dict(made)


def _entries(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def _zipped(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, inside in entries:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            archive.writestr(entry, inside)
    return file.getvalue()


def _with_directory(data: bytes, at: int, value: bytes) -> bytes:
    """Bytes of every entry in the archive's directory replaced from byte `at` on."""
    begin, at = data.index(DIRECTORY), at - len(DIRECTORY)
    entries = data[begin:].split(DIRECTORY)[1:]
    changed = [entry[:at] + value + entry[at + len(value) :] for entry in entries]
    return DIRECTORY.join([data[:begin], *changed])


def swollen() -> bytes:
    """BOMB_BYTES of zeros as deflate packs them."""
    packer, block = zlib.compressobj(wbits=-15), bytes(10**6)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return packed * (BOMB_BYTES // len(block)) + b"\3\0"  # a last block with nothing in it


def _bomb(others: list[tuple[str, bytes]], name: str) -> bytes:
    """The archive with an entry that swells to BOMB_BYTES, as it declares."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for other, inside in others:
            archive.writestr(zipfile.ZipInfo(other), inside)
        begin, entry = file.tell(), zipfile.ZipInfo(name)
        archive.writestr(entry, swollen())  # stored first, and called deflated then
        entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, BOMB_BYTES
        end = file.tell()
        file.seek(begin)
        file.write(entry.FileHeader())
        file.seek(end)
    return file.getvalue()
