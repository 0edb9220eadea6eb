"""How products of float32 are computed on a GPU: in IEEE float32, or in TF32.

TF32 has 10 bits of mantissa and sums in float32; it is several times faster from Ampere on. It changes
results in the fourth digit, so it is asked for (`trainer.matmul`), never assumed.
"""

from __future__ import annotations

from typing import Literal

import torch

from bifusion.errors import InputError

Matmul = Literal["ieee", "tf32"]
_MATMUL: dict[Matmul, str] = {"ieee": "highest", "tf32": "high"}
"""Our names, and torch's for its own products of matrices."""


def use_matmul(name: Matmul) -> None:
    """Computes products of float32 so from now on, sparse convolutions and torch's own alike."""
    if name not in _MATMUL:
        raise InputError(f"trainer.matmul: found {name!r}; expected one of {', '.join(_MATMUL)}")
    torch.set_float32_matmul_precision(_MATMUL[name])


def dot_precision() -> Matmul:
    """What `use_matmul` (or `torch.set_float32_matmul_precision`) chose last; "ieee" at first."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
