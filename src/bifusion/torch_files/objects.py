"""What a pickle is turned into: plain containers, and these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


MAX_DIMENSIONS = 64
MAX_NUMBER = 2**63 - 1
MOST_TOLD = 60


class MalformedFileError(Exception):
    """A file is not what it seems to be: cut short, damaged, or made to do harm. Says how."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle asks to import. It is kept as text."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def told(value: Any) -> str:
    """A few words on what stands where something else was expected. Containers are never written out:
    one that holds another twice, and so on, has a text that is longer than any memory."""
    if isinstance(value, str):
        return repr(value[:MOST_TOLD])
    if type(value) is int and value.bit_length() <= 64:
        return str(value)
    return "a number beyond 64 bits" if type(value) is int else f"a {type(value).__name__}"


@dataclass(eq=False, repr=False)
class Inert:
    """An object that the pickle asks to make of a class or with a function: not made."""

    of: str
    """The name of the class or function."""
    state: Any = None
    """What the object's attributes were to be set to."""


@dataclass(frozen=True)
class Storage:
    """A run of numbers elsewhere in the file."""

    key: str
    dtype: torch.dtype
    numel: int
    """Numbers in it, as the pickle says; compared with the file when read."""
    offset: int = 0
    """Where it begins, in numbers, for views of one storage (legacy files)."""

    @property
    def end_bytes(self) -> int:
        return (self.offset + self.numel) * self.dtype.itemsize


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number <= MAX_NUMBER


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose numbers have not been read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises MalformedFileError unless it lies within its storage and is no larger."""
        numbers = (self.offset, *self.shape, *self.stride)
        if len(self.shape) != len(self.stride) or len(self.shape) > MAX_DIMENSIONS:
            raise MalformedFileError(
                f"a tensor of {len(self.shape)} dimensions with {len(self.stride)} strides"
            )
        if not all(map(_is_size, numbers)):
            raise MalformedFileError(f"a tensor of {', '.join(map(told, numbers))} numbers")
        numel = math.prod(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if numel and (numel > self.storage.numel or last >= self.storage.numel):
            raise MalformedFileError(
                f"a tensor of shape {self.shape} in a storage of {self.storage.numel} numbers"
            )


def storage_from(pid: Any) -> Storage | Inert:
    """The storage that a persistent id means; other ids (source code of modules) are inert.

    ("storage", type, key, device, numel), in legacy files with (view key, offset, numel) or None
    behind. Raises MalformedFileError for anything else.
    """
    if not isinstance(pid, tuple) or not pid or pid[0] != "storage":
        return Inert("persistent id")
    if len(pid) not in (5, 6) or not isinstance(pid[1], Global) or not isinstance(pid[2], str):
        raise MalformedFileError("a reference to a storage that is not in PyTorch's form")
    kind, key, numel = pid[1].name, pid[2], pid[4]
    if kind not in _STORAGE_DTYPES:
        raise MalformedFileError(
            f"a storage of type {told(str(pid[1]))}; known are {', '.join(_STORAGE_DTYPES)}"
        )
    offset = 0
    if len(pid) == 6 and pid[5] is not None:
        if not isinstance(pid[5], tuple) or len(pid[5]) != 3:
            raise MalformedFileError("a view of a storage that is not in PyTorch's form")
        _, offset, numel = pid[5]
    if not (_is_size(numel) and _is_size(offset)):
        raise MalformedFileError(f"storage {told(key)} of {told(numel)} numbers from {told(offset)}")
    return Storage(key, _STORAGE_DTYPES[kind], numel, offset)


def tensor_from(args: Any) -> StoredTensor:
    """The tensor of torch._utils._rebuild_tensor[_v2](storage, offset, size, stride, …)."""
    if not isinstance(args, tuple) or len(args) < 4 or not isinstance(args[0], Storage):
        raise MalformedFileError(
            "a tensor that is not made of a storage, an offset, a size and a stride"
        )
    shape, stride = args[2], args[3]
    if not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise MalformedFileError("a tensor whose size or stride is no tuple")
    return StoredTensor(args[0], args[1], shape, stride)
