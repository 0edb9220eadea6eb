"""What is compared with the annotation: matches queries with instances, then goes through the terms."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from bifusion import plugins
from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet
from bifusion.losses.context import CriterionConfig, LossContext, Matched, annotation
from bifusion.losses.matcher import matching_cost
from bifusion.losses.matching import Match, match_one_to_one, match_to_own_superpoints
from bifusion.losses.shares import Counts, Share, count
from bifusion.losses.terms import LOSS_TERMS, LossTerm, TermFunction
from bifusion.precision import full_float32
from bifusion.spelling import did_you_mean
from bifusion.types import Batch, Output, Prediction


class Criterion:
    """Loss terms of a `Prediction` against `batch.targets`."""

    def __init__(self, config: CriterionConfig, label_set: LabelSet) -> None:
        """Raises InputError for a term from outside that cannot be had (see `plugins.load`)."""
        self.config = config
        self.num_things = label_set.num_things
        self.num_classes = label_set.num_classes
        self.terms = LOSS_TERMS | _from_outside(config.extra)

    def __call__(
        self, prediction: Prediction, batch: Batch, share: Share | None = None
    ) -> dict[str, Tensor]:
        """Unweighted scalar terms, float32 whatever the model's precision, each attached to the graph.

        All terms of the table whose part of the prediction is there, and those from outside. A term
        that nothing contributes to is 0. With the batch's `share` in a step of several, the mean of
        their terms is that of one batch with all scenes.
        Raises NonFiniteCostError where a matching cost is not finite.
        """
        device, given = prediction.superpoint_features.device, prediction.optional_outputs()
        with full_float32(device):  # products of the costs would otherwise run in autocast's precision
            outputs = self.contexts(prediction, batch, range(len(prediction.layers)), share)
            return {
                name: self._term(term, prediction, batch, outputs, share)
                for name, term in self.terms.items()
                if term.needs is None or term.needs in given
            }

    def _term(
        self,
        term: LossTerm,
        prediction: Prediction,
        batch: Batch,
        outputs: list[LossContext],
        share: Share | None,
    ) -> Tensor:
        of = outputs if term.of_every_output else outputs[-1:]
        values = torch.stack([term.function(prediction, batch, context) for context in of])
        if share is not None:
            summed = self.config.sum_over_scenes and term.divided_by == "mask_scenes"
            values = values * (share.of_sum() if summed else share.of_mean(term.divided_by))
        mean = term.of_every_output and self.config.over_outputs == "mean"
        return values.mean() if mean else values.sum()

    def counts(self, batch: Batch, made_of: Sequence[Tensor] | None) -> Counts:
        """What terms of `batch` will be divided by (`shares.count`)."""
        return count(batch, made_of, self.config, self.num_classes)

    def contexts(
        self,
        prediction: Prediction,
        batch: Batch,
        indices: Sequence[int],
        share: Share | None = None,
    ) -> list[LossContext]:
        """What terms are told of the decoder outputs `indices`."""
        contexts = []
        for index, of_scenes in zip(indices, self.match(prediction, batch, indices), strict=True):
            matched = []
            for b, (queries, instances) in enumerate(of_scenes):
                logits = prediction.layers[index].mask_logits[b].float().index_select(0, queries)
                masks = annotation(batch)[b].masks.index_select(0, instances).float()
                matched.append(Matched(queries, instances, logits, masks))
            numbers = (self.num_things, self.num_classes)
            scenes = len(batch.names) if share is None else share.step.scenes
            contexts.append(LossContext(self.config, *numbers, index, matched, scenes))
        return contexts

    def match(self, prediction: Prediction, batch: Batch, indices: Sequence[int]) -> list[list[Match]]:
        """Queries and instances matched at the decoder outputs `indices`, one pair of index lists a
        scene; the host waits for a device once for all of them."""
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


def check_weights(
    weighted: Iterable[str], criterion: Criterion, given: Collection[Output], name: str
) -> None:
    """InputError for a weight of a term that there is not, or that the model called `name`, whose
    predictions have the parts `given`, cannot give: it would train without that term, in silence."""
    terms = criterion.terms
    for term in weighted:
        if term not in terms:
            raise InputError(
                f"stages: a weight is given to {term!r}, which is no loss term"
                f"{did_you_mean(term, list(terms))}; the terms are {', '.join(terms)}"
            )
        needs = terms[term].needs
        if needs is not None and needs not in given:
            raise InputError(
                f"stages: a weight is given to {term!r}, but predictions of {name} have no {needs}, "
                "which it is computed from; take the weight out, or switch that part of the model on"
            )


def _from_outside(extra: dict[str, str]) -> dict[str, LossTerm]:
    terms = {}
    for name, target in extra.items():
        where = f"criterion.extra.{name}"
        if name in LOSS_TERMS:
            raise InputError(f"{where}: {name} is a loss term of the package; choose another name")
        terms[name] = LossTerm(_checked(plugins.load(target, where), target, where), title=name)
    return terms


def _checked(function: TermFunction, name: str, where: str) -> TermFunction:
    def term(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
        with plugins.noted(name, where):
            value = function(prediction, batch, context)
        if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
            found = type(value).__name__
            if isinstance(value, Tensor):
                found = f"a {value.dtype} tensor of shape {tuple(value.shape)}"
            raise InputError(
                f"{where}, {name}: returned {found}, expected a floating-point tensor of shape ()"
            )
        return value.float()

    return term
