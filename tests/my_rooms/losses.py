"""A loss term of one's own."""

import torch
from torch import Tensor

from bifusion.losses.context import LossContext
from bifusion.types import Batch, Prediction


def confident(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
    """Mean p (1 − p) of the matched masks: 0 where every superpoint is clearly inside or outside."""
    p = torch.cat([matched.logits.sigmoid().flatten() for matched in context.matched])
    return (p * (1 - p)).sum() / max(len(p), 1)


def not_a_scalar(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
    """A mistake: one value a query."""
    return context.matched[0].logits.mean(dim=1)


weight = 0.5
