"""What is compared with the annotation: matches queries with instances, then goes through the terms."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from bifusion import plugins
from bifusion.labels.sets import LabelSet
from bifusion.losses.context import CriterionConfig, LossContext, Matched, annotation
from bifusion.losses.matcher import check_cost, match_hungarian, match_own_superpoint, matching_cost
from bifusion.losses.terms import LOSS_TERMS, LossTerm, TermFunction
from bifusion.types import Batch, InputError, Output, Prediction

Match = tuple[Tensor, Tensor]
"""(K,) queries and (K,) instances matched with each other."""


class Criterion:
    """Loss terms of a `Prediction` against `batch.targets`."""

    def __init__(self, config: CriterionConfig, label_set: LabelSet) -> None:
        """Raises InputError for a term from outside that cannot be had (see `plugins.load`)."""
        self.config = config
        self.num_things = label_set.num_things
        self.num_classes = label_set.num_classes
        self.terms = LOSS_TERMS | _from_outside(config.extra)

    def __call__(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Unweighted scalar terms, float32 whatever the model's precision, each attached to the graph.

        All terms of the table whose part of the prediction is there, and those from outside. A term
        that nothing contributes to is 0.
        Raises NonFiniteCostError where a matching cost is not finite.
        """
        device, given = prediction.superpoint_features.device, prediction.optional_outputs()
        # matrix products of the costs would otherwise run in the autocast precision
        with torch.autocast(device.type, enabled=False):
            outputs = [self.context(prediction, batch, i) for i in range(len(prediction.layers))]
            return {
                name: self._term(term, prediction, batch, outputs)
                for name, term in self.terms.items()
                if term.needs is None or term.needs in given
            }

    def layer_terms(self, prediction: Prediction, batch: Batch, index: int) -> dict[str, Tensor]:
        """Terms of decoder output `index` alone."""
        context, given = self.context(prediction, batch, index), prediction.optional_outputs()
        return {
            name: term.function(prediction, batch, context)
            for name, term in self.terms.items()
            if term.of_every_output and (term.needs is None or term.needs in given)
        }

    def _term(
        self, term: LossTerm, prediction: Prediction, batch: Batch, outputs: list[LossContext]
    ) -> Tensor:
        if not term.of_every_output:
            return term.function(prediction, batch, outputs[-1])
        values = torch.stack([term.function(prediction, batch, context) for context in outputs])
        return values.sum() if self.config.over_outputs == "sum" else values.mean()

    def context(self, prediction: Prediction, batch: Batch, index: int) -> LossContext:
        """What terms are told of decoder output `index`."""
        matched = []
        for b, (queries, instances) in enumerate(self.match(prediction, batch, index)):
            logits = prediction.layers[index].mask_logits[b].float().index_select(0, queries)
            masks = annotation(batch)[b].masks.index_select(0, instances).float()
            matched.append(Matched(queries, instances, logits, masks))
        return LossContext(self.config, self.num_things, self.num_classes, index, matched)

    def match(self, prediction: Prediction, batch: Batch, index: int) -> list[Match]:
        """Queries and instances matched at decoder output `index`, one pair of index lists a scene."""
        layer = prediction.layers[index]
        matches = []
        for b, target in enumerate(annotation(batch)):
            class_logits, mask_logits = layer.class_logits[b].float(), layer.mask_logits[b].float()
            cost = matching_cost(
                class_logits, mask_logits, target.labels, target.masks, self.config.matcher
            )
            check_cost(cost, batch.names[b], index)
            if self.config.matcher.kind == "hungarian":
                matches.append(match_hungarian(cost))
                continue
            if prediction.query_superpoints is None:
                raise ValueError("matcher kind 'own_superpoint' needs queries made of superpoints")
            contained = target.masks.index_select(1, prediction.query_superpoints[b]).T
            matches.append(match_own_superpoint(cost, contained))
        return matches


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
                f"{plugins.did_you_mean(term, list(terms))}; the terms are {', '.join(terms)}"
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
        terms[name] = LossTerm(_checked(plugins.load(target, where), f"{where}, {target}"), title=name)
    return terms


def _checked(function: TermFunction, where: str) -> TermFunction:
    def term(prediction: Prediction, batch: Batch, context: LossContext) -> Tensor:
        value = function(prediction, batch, context)
        if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
            found = type(value).__name__
            if isinstance(value, Tensor):
                found = f"a {value.dtype} tensor of shape {tuple(value.shape)}"
            raise InputError(f"{where}: returned {found}, expected a floating-point tensor of shape ()")
        return value.float()

    return term
