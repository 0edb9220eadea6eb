"""What a process's batch weighs in the loss of all batches of a step.

Gradients are averaged over processes, and a term is a sum over a batch divided by some count in it. The
mean of such quotients is not the quotient of the sums where counts differ: a scene beside one without
instances would weigh half of what it weighs in one batch with it. So each process multiplies its term
by N · Π own count / count over all N processes, and the mean is that of one process with all scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bifusion.losses.context import LossContext, annotation
from bifusion.types import Batch, Prediction

Count = int | Tensor
Counts = Callable[[Prediction, Batch, LossContext], list[Count]]
"""Counts, () each, that a term of this batch has been divided by (a count of 0: by 1, its sum is 0).
As many on all processes, whether the prediction has the term's part or not; none for a plain sum."""
Total = Callable[[Tensor], Tensor]
"""Sum of such a tensor over all processes."""


def scenes(prediction: Prediction, batch: Batch, context: LossContext) -> list[Count]:
    """Of the batch. What a term from outside the package counts as divided by."""
    return [len(batch.names)]


def mask_scenes(prediction: Prediction, batch: Batch, context: LossContext) -> list[Count]:
    """With a match; none where the scenes are summed."""
    if context.config.sum_over_scenes:
        return []
    return [sum(len(matched.queries) > 0 for matched in context.matched)]


def labelled_scenes(prediction: Prediction, batch: Batch, context: LossContext) -> list[Count]:
    """In which a query's superpoint is labelled."""
    if prediction.query_superpoints is None:
        return [0]
    return [
        torch.stack(
            [
                (target.semantic.index_select(0, made_of) != context.num_classes).any()
                for target, made_of in zip(annotation(batch), prediction.query_superpoints, strict=True)
            ]
        ).sum()
    ]


def voxels(prediction: Prediction, batch: Batch, context: LossContext) -> list[Count]:
    """Of the batch."""
    return [len(batch.voxel_coords)]


def shares(
    counts: Mapping[str, Sequence[Sequence[Count]]], batch: Batch, total: Total
) -> dict[str, Tensor]:
    """Term → (outputs,) float32 factors of its values; 0 where the batch does not count.

    `counts`: of each term and output of the decoder. All processes call this with as many.
    """
    device = batch.voxel_coords.device
    flat = [count for outputs in counts.values() for output in outputs for count in output]
    own = torch.stack([torch.as_tensor(count, device=device).double() for count in [1, *flat]])
    if not batch.counts:
        own[1:] = 0
    of_all = total(own)
    processes = of_all[0]
    rest = iter((own[1:] / of_all[1:].clamp(min=1)).unbind())
    factors = {}
    for name, outputs in counts.items():
        parts = []
        for output in outputs:
            part = processes * batch.counts
            for _ in output:
                part = part * next(rest)
            parts.append(part)
        factors[name] = torch.stack(parts).float()
    return factors
