"""Crafted pickles for tests: programs that would touch a file, in every way a pickle can call."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

MARK = b"\x80\x02"


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def calls(command: str) -> dict[str, bytes]:
    """Pickles that call os.system(command), by the opcode that calls."""
    argument = text(command)
    build = b"cbuiltins\nobject\n)\x81}" + text("__setstate__") + b"cos\nsystem\nsb"
    program = text(f"__import__('os').system({command!r})")
    return {
        "REDUCE": MARK + b"cos\nsystem\n" + argument + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + argument + b"\x85R.",
        "INST": MARK + b"(" + argument + b"ios\nsystem\n.",
        "OBJ": MARK + b"(cos\nsystem\n" + argument + b"o.",
        "NEWOBJ": MARK + b"cos\nsystem\n" + argument + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n" + argument + b"\x85}\x92.",
        "BUILD": MARK + build + argument + b"b.",
        "builtins.eval": MARK + b"cbuiltins\neval\n" + program + b"\x85R.",
        "REDUCE of a rebuilt tensor": MARK
        + b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\n" + argument + b"\x85RK\x00))\x89NtR.",
        "import of a module that runs": MARK + b"cantigravity\nfly\n)R.",
    }  # fmt: skip


class Call:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def storage(numel: int, key: str = "0", kind: str = "FloatStorage", module: str = "torch") -> bytes:
    """A reference to a storage of `numel` numbers."""
    return (
        b"(" + text("storage") + f"c{module}\n{kind}\n".encode() + text(key) + text("cpu")
        + pickle.dumps(numel, 2)[2:-1] + b"tQ"
    )  # fmt: skip


def tensor(source: bytes, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A tensor made of a storage."""
    numbers = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, shape, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + source + numbers + b"\x89NtR"


def state_dict(value: bytes) -> bytes:
    """A pickle of {"weight": value}."""
    return MARK + b"}" + text("weight") + value + b"s."


def write_zip(
    path: Path,
    data: bytes,
    records: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """An archive as torch.save writes it, with `data` as its pickle and the given records."""
    records = {"data/0": bytes(16)} if records is None else records
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in records.items():
            archive.writestr(name if name.startswith(("/", ".")) else f"archive/{name}", content)
    return path
