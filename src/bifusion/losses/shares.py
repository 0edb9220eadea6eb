"""What a batch weighs in the loss of all batches of a step, on all processes.

Gradients are averaged over the batches of a step and over processes, and a term is a sum over a batch
divided by some count in it. The mean of such quotients is not the quotient of the sums where counts
differ: a scene beside one without instances would weigh half of what it weighs in one batch with it. So
each batch multiplies its term by N · own count / count of all N batches, and the mean is that of one
batch with all scenes. What is counted is known before the first forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import torch
from torch import Tensor

from bifusion.losses.context import CriterionConfig, annotation
from bifusion.types import Batch

Counted = Literal["scenes", "mask_scenes", "labelled_scenes", "voxels"]
"""What a term's sum over a batch is divided by; by 1 where there is none of it, the sum is 0 then."""
Total = Callable[[Tensor], Tensor]
"""Sum of such a tensor over all processes."""


@dataclass(frozen=True)
class Counts:
    """Of a batch, or of all batches of a step."""

    scenes: int
    mask_scenes: int
    """With a match."""
    labelled_scenes: int
    """In which a query's superpoint is labelled."""
    voxels: int


@dataclass(frozen=True)
class Share:
    """A batch among those that make one step together."""

    batches: int
    """Of the step, on all processes."""
    own: Counts
    step: Counts

    def of_mean(self, counted: Counted) -> float:
        """Factor of a term divided by the batch's `counted`; 0 where the batch does not count."""
        return self.batches * getattr(self.own, counted) / max(getattr(self.step, counted), 1)

    def of_sum(self) -> float:
        """Factor of a term that is a plain sum over the batch; likewise."""
        return float(self.batches) if self.own.scenes else 0.0


def count(
    batch: Batch, made_of: Sequence[Tensor] | None, config: CriterionConfig, num_classes: int
) -> Counts:
    """What is in `batch`, which lies on the host; nothing where it stands in (`Batch.counts`).

    `made_of`: (Q_b,) int64 superpoints of each scene that its queries will be made of; None where they
    are no superpoints.
    """
    if not batch.counts:
        return Counts(0, 0, 0, 0)
    targets = annotation(batch)
    matched = [len(target.labels) > 0 for target in targets]
    labelled = [False] * len(targets)
    if made_of is not None:
        pairs = list(zip(targets, made_of, strict=True))
        labelled = [bool((t.semantic.index_select(0, q) != num_classes).any()) for t, q in pairs]
        if config.matcher.kind == "own_superpoint":  # an instance without a query in it has no match
            matched = [bool(t.masks.index_select(1, q).any()) for t, q in pairs]
    return Counts(len(batch.names), sum(matched), sum(labelled), len(batch.voxel_coords))


def shares(own: Sequence[Counts], total: Total) -> list[Share]:
    """That of each batch of this process in a step; `own` are their counts.

    All processes call this with as many batches. Raises as `total`.
    """
    mine = torch.tensor([(1, *astuple(counts)) for counts in own], dtype=torch.float64).sum(dim=0)
    batches, *numbers = (int(number) for number in total(mine).tolist())
    step = Counts(*numbers)
    return [Share(batches, counts, step) for counts in own]
