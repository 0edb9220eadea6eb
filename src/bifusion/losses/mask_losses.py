"""Losses between masks: element-wise for matched pairs, and pairwise as matching costs.

Definitions are those of OneFormer3D's `instance_criterion.py` (after SPFormer and MaskFormer).
Predictions are logits, targets are 0 or 1 of the same floating type; N pairs, Q queries, G
instances, S superpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy averaged over (N, S) logits and targets; 0, with graph, for N = 0."""
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return losses / max(logits.numel(), 1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss in [0, 1] averaged over N masks of S superpoints; 0, with graph, for N = 0.

    1 − (2 Σ p t + 1) / (Σ p + Σ t + 1); the ones keep empty masks defined.
    """
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * targets).sum(dim=1)
    size = probabilities.sum(dim=1) + targets.sum(dim=1)
    losses = 1 - (overlap + 1) / (size + 1)
    return losses.sum() / max(len(logits), 1)


def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """(N,) IoU in [0, 1] of the masks where the probability is at least 0.5, without gradient."""
    predicted = (logits.detach().sigmoid() >= 0.5).to(targets.dtype)
    overlap = (predicted * targets).sum(dim=1)
    union = predicted.sum(dim=1) + targets.sum(dim=1) - overlap
    return overlap / (union + 1e-6)


@torch.no_grad()
def bce_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """(Q, G) mean binary cross-entropy between every query's (Q, S) and instance's (G, S) mask."""
    # softplus(-x) inside and softplus(x) outside: as softplus(-x) = softplus(x) - x, one product will do
    return (F.softplus(logits).sum(dim=1, keepdim=True) - logits @ targets.T) / logits.shape[1]


@torch.no_grad()
def dice_cost(logits: Tensor, targets: Tensor) -> Tensor:
    """(Q, G) Dice loss between every query's (Q, S) and instance's (G, S) mask."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities @ targets.T)
    size = probabilities.sum(dim=1)[:, None] + targets.sum(dim=1)[None]
    return 1 - (overlap + 1) / (size + 1)
