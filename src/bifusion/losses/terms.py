"""The loss terms by name: what each computes of a prediction, and what others must know of it.

OneFormer3D's `unified_criterion.py`, `instance_criterion.py` and `semantic_criterion.py`, Mask3D's
`criterion.py` where the configuration asks for it, plus the alignment of 2D and 3D features. A term is
unweighted; weights belong to the training stages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.losses.context import LossContext, annotation
from bifusion.losses.mask_losses import bce_loss, dice_loss, mask_iou
from bifusion.losses.shares import Counted
from bifusion.types import Batch, FusionTrace, Output, Prediction

OFFICIAL_BATCH_SIZE = 4

TermFunction = Callable[[Prediction, Batch, LossContext], Tensor]
"""A prediction, the batch with its annotation, and what was matched at one output of the decoder (the
last one, unless the term is one of every output) to a scalar with its graph."""


@dataclass(frozen=True)
class LossTerm:
    """One loss term."""

    function: TermFunction
    title: str
    """For people."""
    of_every_output: bool = False
    """Computed at every output of the decoder and reduced as `CriterionConfig.over_outputs` says."""
    needs: Output | None = None
    """Part of the prediction without which there is no such term."""
    may_be_negative: bool = False
    """Its curve is drawn on a linear scale, below 0 too."""
    acts_on: Literal["decoder", "fusion"] = "decoder"
    """Where its gradient enters: at the decoder's outputs, or at the fusion, past the gate and the
    decoder. One at the fusion reaches the 2D branch though the gate is shut, and meets the other terms
    at the 2D head only."""
    divided_by: Counted = "scenes"
    """What its sum over a batch is divided by; of a step of several batches, that of all (`shares.py`).
    A term from outside the package counts as divided by scenes."""


def instance_class(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
    """Cross-entropy of all queries, weighted by class, mean over scenes; a query that is matched with no
    instance is to say "no object"."""
    losses = []
    for logits, target, matched in zip(
        prediction.layers[context.output].class_logits,
        annotation(batch),
        context.matched,
        strict=True,
    ):
        weight = logits.new_ones(context.num_things + 1, dtype=torch.float32)
        weight[-1].fill_(context.config.no_object_weight)  # assigned by index, the host waits for a GPU
        # instance of each query; -1, none, picks "no object" from the end of the list of labels
        instance = matched.instances.new_full((len(logits),), -1)
        instance = instance.scatter_reduce(0, matched.queries, matched.instances, "amax")
        classes = F.pad(target.labels, (0, 1), value=context.num_things)[instance]
        loss = F.cross_entropy(logits.float(), classes, weight, reduction="sum")
        losses.append(loss / weight[classes].sum().clamp(min=1e-6))
    return torch.stack(losses).mean()


def mask_bce(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
    """Binary cross-entropy of the matched masks; mean over (or, as Mask3D, sum of) scenes."""
    losses = [bce_loss(matched.logits, matched.masks) for matched in context.matched]
    return torch.stack(losses).sum() / context.scenes_that_count


def mask_dice(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
    """Dice loss of the matched masks; mean over (or, as Mask3D, sum of) scenes."""
    losses = [dice_loss(matched.logits, matched.masks) for matched in context.matched]
    loss = torch.stack(losses).sum() / context.scenes_that_count
    if context.config.official_dice_scaling:
        last = context.output == len(prediction.layers) - 1
        loss = loss * OFFICIAL_BATCH_SIZE / (1 if last else context.batch_size)
    return loss


def score(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
    """Squared error of the predicted IoU against the true one, mean over the matched masks good enough,
    then over scenes."""
    scores = prediction.layers[context.output].scores
    assert scores is not None
    losses = []
    for of_scene, matched in zip(scores, context.matched, strict=True):
        predicted = of_scene.float().index_select(0, matched.queries).squeeze(1)
        iou = mask_iou(matched.logits, matched.masks)
        good = (iou > context.config.score_min_iou).float()
        losses.append((good * (predicted - iou).square()).sum() / good.sum().clamp(min=1))
    return torch.stack(losses).mean()


def semantic(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
    """Cross-entropy of the queries' superpoints; unlabelled ones do not count.

    Mean over the labelled queries of a scene, then over the scenes that have one.
    """
    assert prediction.semantic_logits is not None and prediction.query_superpoints is not None
    losses, has_labels, unlabelled = [], [], context.num_classes
    for b, target in enumerate(annotation(batch)):
        logits = prediction.semantic_logits[b].float()[:, :-1]
        classes = target.semantic.index_select(0, prediction.query_superpoints[b])
        labelled = (classes != unlabelled).sum()
        loss = F.cross_entropy(logits, classes, ignore_index=unlabelled, reduction="sum")
        losses.append(loss / labelled.clamp(min=1))
        has_labels.append(labelled > 0)
    return torch.stack(losses).sum() / torch.stack(has_labels).sum().clamp(min=1)


def alignment(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
    """`alignment_loss` of the fusion, in [−1, 1] times the share of seen voxels."""
    assert prediction.fusion is not None
    return alignment_loss(prediction.fusion)


def alignment_loss(trace: FusionTrace) -> Tensor:
    """Negative cosine between predicted and target features, times the share of seen voxels.

    Mean over `trace.alignment_pairs`, each (n, D) on the n seen voxels, and over voxels, as in
    SimSiam (Chen and He 2021, eq. 1). 0 where no voxel is seen.
    """
    losses = []
    for predicted, target in trace.alignment_pairs:
        # eps bounds the gradient at features that are almost zero
        cosine = F.cosine_similarity(predicted.float(), target.float(), dim=1, eps=1e-3)
        losses.append(-cosine.sum() / max(len(cosine), 1))
    return torch.stack(losses).mean() * trace.seen.float().mean()


LOSS_TERMS: dict[str, LossTerm] = {
    "instance_class": LossTerm(instance_class, "Instance class", of_every_output=True),
    "mask_bce": LossTerm(mask_bce, "Mask BCE", of_every_output=True, divided_by="mask_scenes"),
    "mask_dice": LossTerm(mask_dice, "Mask Dice", of_every_output=True, divided_by="mask_scenes"),
    "score": LossTerm(score, "Instance score", of_every_output=True, needs="scores"),
    "semantic": LossTerm(semantic, "Semantic", needs="semantic_logits", divided_by="labelled_scenes"),
    "alignment": LossTerm(
        alignment,
        "Alignment",
        needs="alignment_pairs",
        may_be_negative=True,
        acts_on="fusion",
        divided_by="voxels",
    ),
}
"""In the order in which they are summed."""


def acts_on_fusion(name: str) -> bool:
    """Whether the term called `name` enters at the fusion; one from outside the package does not."""
    return name in LOSS_TERMS and LOSS_TERMS[name].acts_on == "fusion"


def may_be_negative(name: str) -> bool:
    """Whether the term called `name` may be; of one from outside the package nobody knows."""
    return name not in LOSS_TERMS or LOSS_TERMS[name].may_be_negative
