"""The containers around the pickles: PyTorch's zip archives, TorchScript's, and the legacy format.

Nothing is written to disk, no name in a file becomes a path, and no size that a file declares is
believed before it has been compared with the size of the file.
"""

from __future__ import annotations

import io
import mmap
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.torch_files.objects import (
    Global,
    Inert,
    MalformedFileError,
    Storage,
    StoredTensor,
    told,
)
from bifusion.torch_files.pickle_machine import PickleMachine
from bifusion.untrusted.files import ZIP_FAULTS, check_regular, open_regular

EXPECTED = "expected what torch.save wrote (.pt, .pth, .ckpt)"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py: MAGIC_NUMBER
_LEGACY_PROTOCOL = 1001
_PICKLE = b"\x80"
"""What a pickle of torch.save begins with: the instruction that names its protocol."""
_MAX_MODULES = 100_000
_MAX_DEPTH = 64
_MAX_NAME = 1000
_TOLD_BYTES = 40
"""Of the beginning of a file that is none of PyTorch's."""
_MAX_PICKLE_BYTES = 512 << 20
"""Of what describes the tensors, which lie beside it."""


def is_safetensors(path: Path) -> bool:
    """Whether a file's beginning is that of safetensors, whatever its name, as mirrors rename files; the
    name decides where it is neither that nor what torch.save writes."""
    with open_regular(path, missing="there is no such file", advice="give a file of weights") as file:
        start = file.read(9)
    if start[8:] == b"{":  # behind the length of a JSON header
        return True
    return path.suffix.lower() == ".safetensors" and start[:2] != b"PK" and start[:1] != _PICKLE


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

    def loaded(self) -> Any:
        """The content with its tensors read, each into memory of its own.

        InputError for what is no plain container, number, text or tensor, or is nested without end.
        """
        with _complaints(self.path):
            return self._loaded(self.content, {}, 0)

    def _loaded(self, value: Any, done: dict[int, Any], depth: int) -> Any:
        if isinstance(value, Inert | Global | Storage):
            what = value.of if isinstance(value, Inert) else str(value)
            raise MalformedFileError(f"an object, {told(what)}, where a number or tensor belongs")
        if not isinstance(value, StoredTensor | dict | list | tuple):
            return value
        if depth > _MAX_DEPTH:
            raise MalformedFileError(f"values nested deeper than {_MAX_DEPTH}")
        if id(value) not in done:
            done[id(value)] = (
                self.tensor(value)
                if isinstance(value, StoredTensor)
                else {key: self._loaded(item, done, depth + 1) for key, item in value.items()}
                if isinstance(value, dict)
                else type(value)(self._loaded(item, done, depth + 1) for item in value)
            )
        return done[id(value)]

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
                if len(prefix) > _MAX_NAME:
                    break
                dot = f"{prefix}." if prefix else ""
                children = [(f"{dot}{name}", child, depth + 1) for name, child in value.state.items()]
                waiting.extend(reversed(children))
        with _complaints(self.path):
            raise MalformedFileError(f"a module of more than {_MAX_MODULES:,} parts, or endless names")


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Opens what torch.save or torch.jit.save wrote.

    Raises InputError for a file that is missing, damaged, cut short, made to do harm, or of another
    kind.
    """
    check_regular(
        path, missing="there is no such file; give a checkpoint that PyTorch saved", advice=EXPECTED
    )
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
    except InputError:
        raise
    except (MalformedFileError, *ZIP_FAULTS) as error:
        raise InputError(
            f"{path} is no readable PyTorch file: {str(error)[:300]}; {EXPECTED}: download or copy it "
            "again, and check where it comes from"
        ) from error


# ----------------------------------------------------------------------------------------------- zip


class _ZipContainer:
    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._size = archive, size
        names = archive.namelist()
        for name in names:
            if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
                raise MalformedFileError(f"an entry named {told(name)}, which leads out of the archive")
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
            raise MalformedFileError(f"no entry {told(self.prefix + name)}") from None
        # PyTorch never compresses; a small entry that swells is an attack on memory
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size > self._size:
            raise MalformedFileError(
                f"the entry {told(info.filename)} of {info.file_size:,} bytes, compressed, encrypted or "
                "larger than the file"
            )
        if name == "data.pkl" and info.file_size > _MAX_PICKLE_BYTES:
            raise MalformedFileError(f"a pickle of {info.file_size:,} bytes")
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
            f"storage {told(storage.key)} of {storage.numel} numbers, for which it holds "
            f"{len(data)} bytes"
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
                raise MalformedFileError(f"a storage, {told(key)}, that no tensor refers to")
            numel = int.from_bytes(data[position : position + 8], "little")
            self._begin[key] = (position + 8, numel * storages[key].dtype.itemsize)
            position += 8 + numel * storages[key].dtype.itemsize
            if position > len(data):
                raise MalformedFileError(
                    f"storage {told(key)} of {numel} numbers, more than the file holds"
                )

    def read(self, storage: Storage) -> bytearray:
        if storage.key not in self._begin:
            raise MalformedFileError(f"no storage {told(storage.key)}")
        begin, size = self._begin[storage.key]
        return _cut(bytearray(self._data[begin : begin + size]), storage)


def _open_legacy(path: Path, resources: ExitStack) -> TorchFile:
    if path.stat().st_size == 0:
        raise MalformedFileError("it is empty")
    with open(path, "rb") as file:
        data = resources.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    machine = PickleMachine()
    try:
        magic = machine.load(data)
    except MalformedFileError as error:
        if data[:1] == _PICKLE:
            raise
        raise MalformedFileError(
            f"neither a zip archive nor a pickle; {_beginning(data[:_TOLD_BYTES])}"
        ) from error
    if magic != _LEGACY_MAGIC or machine.load(data) != _LEGACY_PROTOCOL:
        raise MalformedFileError("neither a zip archive nor pickles in the order of PyTorch")
    system = machine.load(data)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise MalformedFileError("numbers in big-endian order")
    content = machine.load(data)
    keys = machine.load(data)
    return TorchFile(path, content, _LegacyContainer(data, keys, machine.storages), False)


def _beginning(data: bytes) -> str:
    """A few words on the first bytes of a file: text, such as a table, a configuration or the page that
    was downloaded in the file's place, or no text."""
    text = data.decode("utf-8", errors="ignore")
    words = " ".join(text.split())
    if data.count(0) or len(text.encode()) < len(data) - 3 or not words.isprintable():
        return f"it begins with the bytes {data[:8].hex(' ')}"
    return f"it is text, which begins with {words!r}"
