"""A checkpoint that answers with NaN: masks and classes made of it would look like others."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bifusion.errors import InputError


def refuse_nan(flawed: Tensor, where: str, checkpoint: Path, dtype: torch.dtype | None) -> None:
    """InputError where `flawed`, of `Prediction.answers_with_nan`, for which the host waits: to be asked
    last, when a GPU has all its work. `where`: the scene. `dtype`: what products are in; None:
    float32."""
    if not flawed:
        return
    narrow = "precision 32-true: float16 overflows where that does not"
    wide = "another checkpoint: a training without a guard may end in such weights"
    advice = narrow if dtype == torch.float16 else wide
    raise InputError(f"{where}: {checkpoint} answers with NaN or infinity, no number; take {advice}")
