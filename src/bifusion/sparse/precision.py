"""How products of float32 are computed on a GPU: in IEEE float32, or in TF32.

TF32 has 10 bits of mantissa and sums in float32; it is several times faster from Ampere on. It changes
results in the fourth digit, so it is asked for (`trainer.matmul`), never assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Matmul = Literal["ieee", "tf32"]


@contextmanager
def float32_products(matmul: Matmul, device: torch.device) -> Iterator[None]:
    """On a GPU float32 is multiplied so in this block, by sparse convolutions, products of matrices and
    convolutions of images alike (of which torch takes the last in TF32 unless it is told); afterwards
    as before. Other devices have IEEE float32 alone."""
    if device.type != "cuda":
        yield
        return
    matrices, images = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if matmul == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = matmul == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matrices)
        torch.backends.cudnn.allow_tf32 = images


def dot_precision() -> Matmul:
    """What `float32_products` (or `torch.set_float32_matmul_precision`) chose last; "ieee" at first."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
