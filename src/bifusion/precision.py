"""How products of float32 are computed: in IEEE float32, or, on a GPU, in TF32.

TF32 has 10 bits of mantissa and sums in float32; it is several times faster from Ampere on. It changes
results in the fourth digit, so it is asked for (`trainer.matmul`), never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch

Matmul = Literal["ieee", "tf32"]
Told = TypeVar("Told")
PRECISIONS = ("highest", "high", "medium")
"""Of `torch.set_float32_matmul_precision`."""
_OPERATIONS = (
    ("cuda", "matmul"), ("cudnn", "conv"), ("cudnn", "rnn"),
    ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"),
)  # fmt: skip
"""What has a precision of its own from torch 2.9 on, under `torch.backends`."""


@runtime_checkable
class _Operation(Protocol):
    fp32_precision: str


@contextmanager
def float32_products(matmul: Matmul, device: torch.device) -> Iterator[None]:
    """Float32 is multiplied so in this block, by sparse convolutions, products of matrices and
    convolutions of images alike; afterwards as before, whatever the process was set to.

    TF32 is a GPU's: elsewhere the block is IEEE's in any case, where a process may else have chosen
    bfloat16 (`torch.set_float32_matmul_precision("medium")`, on a CPU that has it).
    """
    tf32 = matmul == "tf32" and device.type == "cuda"
    with _kept():
        _set("high" if tf32 else "highest", images=tf32)
        yield


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Float32 stays float32 in this block: neither autocast narrows it, nor TF32 its products."""
    with torch.autocast(device.type, enabled=False), float32_products("ieee", device):
        yield


@contextmanager
def float32_matmul_precision(precision: str) -> Iterator[None]:
    """`torch.set_float32_matmul_precision(precision)`, one of `PRECISIONS`, in this block alone."""
    with _kept():
        torch.set_float32_matmul_precision(precision)
        yield


def matmul_precision(device: torch.device) -> str:
    """How products of matrices are computed on `device` now, one of `PRECISIONS`.

    torch's own getter fails in a process that has used both its ways of setting it.
    """
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        of = "cuda" if device.type == "cuda" else "mkldnn"
        found = _operation(of, "matmul")
    return {"tf32": "high", "bf16": "medium"}.get(found.fp32_precision if found else "", "highest")


def dot_precision() -> Matmul:
    """What `float32_products` (or the process) chose last for a GPU; "ieee" at first."""
    return "ieee" if matmul_precision(torch.device("cuda")) == "highest" else "tf32"


def _set(precision: str, *, images: bool) -> None:
    """Both of torch's ways say the same then, so that it answers when asked in either."""
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = images
    for operation in _operations():
        operation.fp32_precision = "tf32" if images else "ieee"


@contextmanager
def _kept() -> Iterator[None]:
    """What the block changes is as before after it."""
    matrices = _readable(torch.get_float32_matmul_precision)
    images = _readable(lambda: torch.backends.cudnn.allow_tf32)
    own = [(operation, operation.fp32_precision) for operation in _operations()]
    try:
        yield
    finally:
        if matrices is not None:
            torch.set_float32_matmul_precision(matrices)
        if images is not None:
            torch.backends.cudnn.allow_tf32 = images
        for operation, precision in own:
            operation.fp32_precision = precision


def _readable(read: Callable[[], Told]) -> Told | None:
    """None where torch does not tell, as its two ways of setting contradict each other."""
    try:
        return read()
    except RuntimeError:
        return None


def _operations() -> list[_Operation]:
    found = (_operation(of, name) for of, name in _OPERATIONS)
    return [operation for operation in found if operation is not None]


def _operation(of: str, name: str) -> _Operation | None:
    """None before torch 2.9."""
    found = getattr(getattr(torch.backends, of), name, None)
    return found if hasattr(found, "fp32_precision") else None
