"""What loss terms are computed from besides a prediction: the configuration, and what was matched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from bifusion.bounds import NotNegative
from bifusion.losses.matcher import MatcherConfig
from bifusion.types import Batch, Targets


@dataclass
class CriterionConfig:
    """How terms are computed; defaults are OneFormer3D's, save its Dice scaling."""

    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    no_object_weight: NotNegative = 0.1
    """Weight of the class "no object" in the cross-entropy of the queries."""
    score_min_iou: float = 0.5
    """The score head learns only from matched masks whose IoU is above this."""
    official_dice_scaling: bool = False
    """Scale the Dice term as the official code does: by 4 / B in every layer, and in the last one by
    B again. Its weights were chosen for B = 4; off, the term does not depend on the batch size. Batches
    that make one step together count as one."""
    sum_over_scenes: bool = False
    """Add the mask terms of the scenes of a batch up, as Mask3D's criterion does (its weights were
    chosen for B = 5), and of all batches that make one step; off, their mean over the scenes that have a
    match."""
    over_outputs: Literal["sum", "mean"] = "sum"
    """How a term that is computed at every output of the decoder becomes one number. The published
    weights were chosen for the sum; with the mean a weight does not depend on the decoder's depth."""
    extra: dict[str, str] = field(default_factory=dict)
    """Loss terms from outside the package: name → "module:function", a function of prediction, batch
    and `LossContext` of the last output that returns a scalar. A stage's weight makes them count."""


@dataclass(frozen=True)
class Matched:
    """Queries and instances of one scene that are matched with each other, K pairs."""

    queries: Tensor
    """(K,) int64."""
    instances: Tensor
    """(K,) int64, rows of the scene's `Targets.masks`."""
    logits: Tensor
    """(K, S_b) float32 mask logits of those queries, with their graph."""
    masks: Tensor
    """(K, S_b) float32, 1 in the instance, else 0."""


@dataclass(frozen=True)
class LossContext:
    """What was matched at one output of the decoder, and the numbers that terms share."""

    config: CriterionConfig
    num_things: int
    num_classes: int
    output: int
    """Which entry of `Prediction.layers` this is about."""
    matched: list[Matched]
    """One entry a scene."""
    batch_size: int
    """Scenes of the step, of all its batches on all processes: what the official codes, which know no
    smaller batches, call B."""

    @property
    def scenes_that_count(self) -> int:
        """Divisor of the mask terms: the scenes with a match, at least 1; 1 where scenes are summed."""
        if self.config.sum_over_scenes:
            return 1
        return max(sum(len(matched.queries) > 0 for matched in self.matched), 1)


def annotation(batch: Batch) -> list[Targets]:
    """The batch's targets; ValueError where it was read for prediction only."""
    if batch.targets is None:
        raise ValueError(f"no targets in the batch of {', '.join(batch.names)}: losses need annotation")
    return batch.targets
