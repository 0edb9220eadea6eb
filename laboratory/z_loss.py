"""z-loss as a loss term from outside (PaLM, arXiv 2204.02311, section 5): mean squared log-partition."""

from __future__ import annotations

import torch
from torch import Tensor

from bifusion.losses.context import LossContext
from bifusion.types import Batch, Prediction


def z_loss(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
    """Mean of log(Σ exp(logit))² over the queries' class logits at the last output and the semantic
    ones."""
    logits = [*prediction.layers[-1].class_logits, *(prediction.semantic_logits or [])]
    return torch.stack([x.float().logsumexp(1).square().mean() for x in logits]).mean()
