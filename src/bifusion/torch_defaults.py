"""What torch takes where code does not say, which a user may have set for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def as_torch_starts() -> Iterator[None]:
    """In this block tensors are made as in a fresh process where nobody says otherwise: float32, on the
    CPU. Afterwards as before. (`torch.set_default_dtype`, `torch.set_default_device`.)"""
    dtype, elsewhere = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu") if elsewhere else nullcontext():
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def as_torch_trains() -> Iterator[None]:
    """`as_torch_starts`, and gradients are recorded, though the caller has switched that off."""
    with as_torch_starts(), torch.inference_mode(False), torch.enable_grad():
        yield
