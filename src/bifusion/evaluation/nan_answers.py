"""A checkpoint that answers with NaN: masks and classes made of it would look like others."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bifusion.errors import InputError
from bifusion.types import Prediction


def answers_with_nan(prediction: Prediction) -> Tensor:
    """One boolean on the device. A class logit or score that is infinite counts too: softmax makes NaN
    of the one, by which the candidate is dropped in silence, and the other is no score. Masks, and
    classes of points, take infinity for what it means."""
    last = prediction.layers[-1]
    nan = [t.isnan() for t in (*last.mask_logits, *(prediction.semantic_logits or []))]
    wild = [~t.isfinite() for t in (*last.class_logits, *(last.scores or []))]
    return torch.stack([flawed.any() for flawed in (*nan, *wild)]).any()


def refuse_nan(flawed: Tensor, where: str, checkpoint: Path, dtype: torch.dtype | None) -> None:
    """InputError where `flawed`, of `answers_with_nan`, for which the host waits: to be asked last, when
    a GPU has all its work. `where`: the scene. `dtype`: what products are in; None: float32."""
    if not flawed:
        return
    narrow = "precision 32-true: float16 overflows where that does not"
    wide = "another checkpoint: a training without a guard may end in such weights"
    advice = narrow if dtype == torch.float16 else wide
    raise InputError(f"{where}: {checkpoint} answers with NaN or infinity, no number; take {advice}")
