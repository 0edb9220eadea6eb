"""Which query answers for which annotated instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bifusion.bounds import NotNegative
from bifusion.losses.mask_losses import bce_cost, dice_cost


@dataclass
class MatcherConfig:
    """Weights of the matching cost; defaults are OneFormer3D's for ScanNet."""

    kind: Literal["own_superpoint", "hungarian"] = "own_superpoint"
    """own_superpoint: an instance takes its cheapest query among those made of its own superpoints
    (official `SparseMatcher`). hungarian: one-to-one assignment over all queries."""
    class_weight: NotNegative = 0.5
    """Of the cost of the class."""
    bce_weight: NotNegative = 1.0
    """Of the binary cross-entropy of the masks."""
    dice_weight: NotNegative = 1.0
    """Of the Dice loss of the masks."""


class NonFiniteCostError(ArithmeticError):
    """A matching cost is NaN or infinite: the prediction it was computed from is broken.

    Raised instead of matching anyway, which would hide where the numbers went wrong. `scene` and
    `layer` (decoder output, 0 is before the first layer) say where.
    """

    def __init__(self, scene: str, layer: int, bad: int, total: int) -> None:
        self.scene = scene
        self.layer = layer
        super().__init__(
            f"matching cost of scene {scene!r}, decoder output {layer}: "
            f"{bad} of {total} entries are not finite"
        )


@torch.no_grad()
def matching_cost(
    class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor, config: MatcherConfig
) -> Tensor:
    """(Q, G) cost: − class probability, mask BCE and Dice, weighted.

    `class_logits` (Q, T+1) and `mask_logits` (Q, S) are float32, `labels` (G,) and `masks` (G, S)
    bool the annotation.
    """
    targets = masks.to(mask_logits.dtype)
    probabilities = class_logits.softmax(dim=1)
    return (
        -config.class_weight * probabilities.index_select(1, labels)
        + config.bce_weight * bce_cost(mask_logits, targets)
        + config.dice_weight * dice_cost(mask_logits, targets)
    )


def match_own_superpoint(cost: Tensor, contained: Tensor, instances: Tensor) -> tuple[Tensor, Tensor]:
    """Cheapest query of each instance among those whose superpoint lies in it.

    `cost` is (Q, G), `contained` (Q, G) bool, `instances` (K,) those in which a query lies; the others
    are left out. Returns query and instance indices (K,), (K,). Of equally cheap queries the first is
    taken; the official matcher leaves such an instance out, and on scenes with repeated features loses
    it.
    """
    allowed = cost.masked_fill(~contained, torch.inf)
    return allowed.index_select(1, instances).argmin(dim=0), instances
