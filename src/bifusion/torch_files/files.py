"""The containers around the pickles: PyTorch's zip archives, TorchScript's, and the legacy format.

Nothing is written to disk, no name in a file becomes a path, and no size that a file declares is
believed before it has been compared with the size of the file.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.torch_files.objects import Inert, MalformedFileError, Storage, StoredTensor
from bifusion.torch_files.pickle_machine import PickleMachine

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py: MAGIC_NUMBER
_LEGACY_PROTOCOL = 1001
_ZIP_ERRORS = (
    zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OverflowError, struct.error
)  # fmt: skip
"""What zipfile says of damage, of encryption and of features it does not know."""
_MAX_MODULES = 100_000
_MAX_DEPTH = 64


@runtime_checkable
class _Container(Protocol):
    """Where the numbers of storages lie."""

    def read(self, storage: Storage) -> bytearray:
        """Its bytes; MalformedFileError if the file does not hold that many."""
        ...


class TorchFile:
    """An open file: its object, and the tensors in it on demand. See `open_torch_file`."""

    def __init__(self, path: Path, content: Any, container: _Container, is_torchscript: bool) -> None:
        self.path = path
        self.content = content
        """What was saved: plain containers, `StoredTensor`, `Inert`."""
        self.is_torchscript = is_torchscript
        self._container = container

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Reads a tensor, in memory of its own, on the CPU. InputError if its numbers are not there."""
        storage = stored.storage
        with _complaints(self.path):
            data = self._container.read(storage)
        if not data:
            return torch.empty(stored.shape, dtype=storage.dtype)
        numbers = torch.frombuffer(data, dtype=storage.dtype)
        return numbers.as_strided(stored.shape, stored.stride, stored.offset).clone()

    def module_tensors(self) -> dict[str, StoredTensor]:
        """Tensors of a TorchScript module by the names of its state dict.

        Raises InputError for a tree of modules that is larger than any network.
        """
        found: dict[str, StoredTensor] = {}
        waiting: list[tuple[str, Any, int]] = [("", self.content, 0)]
        for _ in range(_MAX_MODULES):
            if not waiting:
                return found
            prefix, value, depth = waiting.pop()
            if isinstance(value, StoredTensor):
                found[prefix] = value
            elif isinstance(value, Inert) and isinstance(value.state, dict) and depth < _MAX_DEPTH:
                dot = f"{prefix}." if prefix else ""
                children = [(f"{dot}{name}", child, depth + 1) for name, child in value.state.items()]
                waiting.extend(reversed(children))
        with _complaints(self.path):
            raise MalformedFileError(f"a module of more than {_MAX_MODULES:,} parts")


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Opens what torch.save or torch.jit.save wrote.

    Raises InputError for a file that is missing, damaged, cut short, made to do harm, or of another
    kind.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a checkpoint that PyTorch saved")
    with ExitStack() as resources:
        with _complaints(path):
            with open(path, "rb") as file:
                is_zip = file.read(4) == b"PK\x03\x04"
            opened = _open_zip(path, resources) if is_zip else _open_legacy(path, resources)
        yield opened


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """Whatever is wrong with the file as an InputError."""
    try:
        yield
    except (MalformedFileError, OSError, *_ZIP_ERRORS) as error:
        raise InputError(
            f"{path} is no readable PyTorch file: {str(error)[:300]}; expected what torch.save wrote "
            "(.pt, .pth, .ckpt): download or copy it again, and check where it comes from"
        ) from error


# ----------------------------------------------------------------------------------------------- zip


class _ZipContainer:
    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._size = archive, size
        names = archive.namelist()
        for name in names:
            if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
                raise MalformedFileError(f"an entry named {name!r}, which leads out of the archive")
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise MalformedFileError(f"a zip archive with {len(pickles)} entries NAME/data.pkl")
        self.prefix = pickles[0].removesuffix("data.pkl")
        self.is_torchscript = f"{self.prefix}constants.pkl" in names
        if f"{self.prefix}byteorder" in names and self.entry("byteorder") != b"little":
            raise MalformedFileError("numbers in big-endian order")

    def entry(self, name: str) -> bytes:
        try:
            info = self._archive.getinfo(self.prefix + name)
        except KeyError:
            raise MalformedFileError(f"no entry {self.prefix + name!r}") from None
        # PyTorch never compresses; a small entry that swells is an attack on memory
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > self._size:
            raise MalformedFileError(f"the entry {info.filename!r} of {info.file_size} bytes")
        return self._archive.read(info)

    def read(self, storage: Storage) -> bytearray:
        data = bytearray(self.entry(f"data/{storage.key}"))
        return _cut(data, storage)


def _open_zip(path: Path, resources: ExitStack) -> TorchFile:
    archive = resources.enter_context(zipfile.ZipFile(path))
    container = _ZipContainer(archive, path.stat().st_size)
    content = PickleMachine().load(io.BytesIO(container.entry("data.pkl")))
    return TorchFile(path, content, container, container.is_torchscript)


def _cut(data: bytearray, storage: Storage) -> bytearray:
    if len(data) < storage.end_bytes:
        raise MalformedFileError(
            f"storage {storage.key!r} of {storage.numel} numbers, for which it holds {len(data)} bytes"
        )
    return data[storage.offset * storage.dtype.itemsize : storage.end_bytes]


# -------------------------------------------------------------------------------------------- legacy


class _LegacyContainer:
    """Storages behind the pickles, each after its length, in the order of a list of keys."""

    def __init__(self, data: mmap.mmap, keys: Any, storages: dict[str, Storage]) -> None:
        self._data, self._begin = data, {}
        position = data.tell()
        for key in keys if isinstance(keys, list) else []:
            if not isinstance(key, str) or key not in storages:
                raise MalformedFileError(f"a storage {key!r} that no tensor refers to")
            numel = int.from_bytes(data[position : position + 8], "little")
            self._begin[key] = (position + 8, numel * storages[key].dtype.itemsize)
            position += 8 + numel * storages[key].dtype.itemsize
            if position > len(data):
                raise MalformedFileError(f"storage {key!r} of {numel} numbers, more than the file holds")

    def read(self, storage: Storage) -> bytearray:
        if storage.key not in self._begin:
            raise MalformedFileError(f"no storage {storage.key!r}")
        begin, size = self._begin[storage.key]
        return _cut(bytearray(self._data[begin : begin + size]), storage)


def _open_legacy(path: Path, resources: ExitStack) -> TorchFile:
    if path.stat().st_size == 0:
        raise MalformedFileError("it is empty")
    with open(path, "rb") as file:
        data = resources.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    machine = PickleMachine()
    if machine.load(data) != _LEGACY_MAGIC or machine.load(data) != _LEGACY_PROTOCOL:
        raise MalformedFileError("neither a zip archive nor pickles in the order of PyTorch")
    system = machine.load(data)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise MalformedFileError("numbers in big-endian order")
    content = machine.load(data)
    keys = machine.load(data)
    return TorchFile(path, content, _LegacyContainer(data, keys, machine.storages), False)
