"""What is compared with the annotation: named, unweighted loss terms of a prediction.

OneFormer3D's `unified_criterion.py`, `instance_criterion.py` and `semantic_criterion.py`, Mask3D's
`criterion.py` where the configuration asks for it, plus the alignment of 2D and 3D features. Weights
belong to the training stages, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.labels.label_set import LabelSet
from bifusion.losses.mask_losses import bce_loss, dice_loss, mask_iou
from bifusion.losses.matcher import MatcherConfig, matching_cost
from bifusion.losses.matching import Match, match_one_to_one, match_to_own_superpoints
from bifusion.types import Batch, FusionTrace, LayerPrediction, Prediction, Targets

OFFICIAL_BATCH_SIZE = 4


@dataclass
class CriterionConfig:
    """How terms are computed; defaults are OneFormer3D's, save its Dice scaling."""

    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    no_object_weight: float = 0.1
    """Weight of the class "no object" in the cross-entropy of the queries."""
    score_min_iou: float = 0.5
    """The score head learns only from matched masks whose IoU is above this."""
    official_dice_scaling: bool = False
    """Scale the Dice term as the official code does: by 4 / B in every layer, and in the last one by
    B again. Its weights were chosen for B = 4; off, the term does not depend on the batch size."""
    sum_over_scenes: bool = False
    """Add the mask terms of the scenes of a batch up, as Mask3D's criterion does (its weights were
    chosen for B = 5); off, their mean over the scenes that have a match."""


class Criterion:
    """Loss terms of a `Prediction` against `batch.targets`."""

    def __init__(self, config: CriterionConfig, label_set: LabelSet) -> None:
        self.config = config
        self.num_things = label_set.num_things
        self.num_classes = label_set.num_classes

    def __call__(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Unweighted scalar terms, float32 whatever the model's precision, each attached to the graph.

        `instance_class`, `mask_bce`, `mask_dice` and, with a score head, `score`: summed over the
        decoder's outputs. `semantic`: with a semantic head. `alignment`: in [−1, 1] times the share
        of seen voxels, where the fusion gives pairs. A term that nothing contributes to is 0.
        Raises NonFiniteCostError where a matching cost is not finite.
        """
        device = prediction.superpoint_features.device
        # matrix products of the costs would otherwise run in the autocast precision
        with torch.autocast(device.type, enabled=False):
            indices = range(len(prediction.layers))
            matches = self.match_layers(prediction, batch, indices)
            layers = [self.layer_terms(prediction, batch, i, matches[i]) for i in indices]
            terms = {name: torch.stack([layer[name] for layer in layers]).sum() for name in layers[-1]}
            if prediction.semantic_logits is not None:
                terms["semantic"] = self.semantic_term(prediction, batch)
            if prediction.fusion is not None and prediction.fusion.alignment_pairs:
                terms["alignment"] = alignment_term(prediction.fusion)
        return terms

    def layer_terms(
        self,
        prediction: Prediction,
        batch: Batch,
        index: int,
        matches: Sequence[Match] | None = None,
    ) -> dict[str, Tensor]:
        """Instance terms of decoder output `index` alone, by its `matches` where they are known."""
        layer, targets = prediction.layers[index], annotation(batch)
        matches = self.match(prediction, batch, index) if matches is None else matches
        terms = {"instance_class": self._class_term(layer, targets, matches)}

        bce, dice, score, matched_scenes = [], [], [], 0
        for b, (queries, instances) in enumerate(matches):
            matched_scenes += len(queries) > 0
            logits = layer.mask_logits[b].float().index_select(0, queries)
            masks = targets[b].masks.index_select(0, instances).float()
            bce.append(bce_loss(logits, masks))
            dice.append(dice_loss(logits, masks))
            if layer.scores is not None:
                predicted = layer.scores[b].float().index_select(0, queries).squeeze(1)
                score.append(self._score_loss(predicted, mask_iou(logits, masks)))

        divisor = 1 if self.config.sum_over_scenes else max(matched_scenes, 1)
        terms["mask_bce"] = torch.stack(bce).sum() / divisor
        terms["mask_dice"] = torch.stack(dice).sum() / divisor
        if self.config.official_dice_scaling:
            last = index == len(prediction.layers) - 1
            terms["mask_dice"] = terms["mask_dice"] * OFFICIAL_BATCH_SIZE / (1 if last else len(matches))
        if score:
            terms["score"] = torch.stack(score).mean()
        return terms

    def match(self, prediction: Prediction, batch: Batch, index: int) -> list[Match]:
        """Queries and instances matched at decoder output `index`, one pair of index lists a scene."""
        return self.match_layers(prediction, batch, [index])[0]

    def match_layers(
        self, prediction: Prediction, batch: Batch, indices: Sequence[int]
    ) -> list[list[Match]]:
        """`match` at several decoder outputs, for which the host waits for a device once."""
        targets, config = annotation(batch), self.config.matcher
        costs = [
            [
                matching_cost(classes.float(), masks.float(), target.labels, target.masks, config)
                for classes, masks, target in zip(
                    prediction.layers[i].class_logits,
                    prediction.layers[i].mask_logits,
                    targets,
                    strict=True,
                )
            ]
            for i in indices
        ]
        if config.kind == "hungarian":
            return match_one_to_one(costs, batch.names, indices)
        made_of = prediction.query_superpoints
        if made_of is None:
            raise ValueError("matcher kind 'own_superpoint' needs queries made of superpoints")
        return match_to_own_superpoints(costs, targets, made_of, batch.names, indices)

    def semantic_term(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Cross-entropy of the queries' superpoints; unlabelled ones do not count.

        Mean over the labelled queries of a scene, then over the scenes that have one.
        """
        assert prediction.semantic_logits is not None and prediction.query_superpoints is not None
        losses, labelled_scenes = [], []
        for b, target in enumerate(annotation(batch)):
            logits = prediction.semantic_logits[b].float()[:, :-1]
            classes = target.semantic.index_select(0, prediction.query_superpoints[b])
            labelled = (classes != self.num_classes).sum()
            loss = F.cross_entropy(logits, classes, ignore_index=self.num_classes, reduction="sum")
            losses.append(loss / labelled.clamp(min=1))
            labelled_scenes.append(labelled > 0)
        return torch.stack(losses).sum() / torch.stack(labelled_scenes).sum().clamp(min=1)

    def _class_term(
        self, layer: LayerPrediction, targets: Sequence[Targets], matches: Sequence[Match]
    ) -> Tensor:
        """Cross-entropy of all queries, weighted by class, mean over scenes."""
        losses = []
        for logits, target, (queries, instances) in zip(
            layer.class_logits, targets, matches, strict=True
        ):
            weight = logits.new_ones(self.num_things + 1, dtype=torch.float32)
            weight[-1] = self.config.no_object_weight
            # instance of each query; -1, none, picks "no object" from the end of the list of labels
            instance = instances.new_full((len(logits),), -1)
            instance = instance.scatter_reduce(0, queries, instances, "amax")
            classes = F.pad(target.labels, (0, 1), value=self.num_things)[instance]
            loss = F.cross_entropy(logits.float(), classes, weight, reduction="sum")
            losses.append(loss / weight[classes].sum().clamp(min=1e-6))
        return torch.stack(losses).mean()

    def _score_loss(self, predicted: Tensor, iou: Tensor) -> Tensor:
        """Squared error of predicted (K,) against true IoU, mean over the masks good enough."""
        good = (iou > self.config.score_min_iou).float()
        return (good * (predicted - iou).square()).sum() / good.sum().clamp(min=1)


def annotation(batch: Batch) -> list[Targets]:
    """The batch's targets; ValueError where it was read for prediction only."""
    if batch.targets is None:
        raise ValueError(f"no targets in the batch of {', '.join(batch.names)}: losses need annotation")
    return batch.targets


def alignment_term(trace: FusionTrace) -> Tensor:
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
