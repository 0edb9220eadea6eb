"""Whether loss terms pull shared weights in opposite directions: cosines between their gradients.

Measured at the last weights that all terms share, as GradNorm does (Chen et al., "GradNorm: Gradient
Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018, section 3.1: "the last
shared layer of weights"): there a term's gradient is not yet mixed with what lies below, and it costs a
pass through the heads alone. All weights would cost a whole backward pass a term, which is the reason
that GradNorm gives too; and their many millions of numbers, most of them noise of single scenes, drive
every cosine towards zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from bifusion.losses.terms import acts_on_fusion

OTHERS = "others"


def conflict_figures(
    model: nn.Module, terms: dict[str, Tensor], weights: dict[str, float]
) -> dict[str, Tensor]:
    """For `conflicts_of`: the cosine of every pair of weighted loss terms that act, "semantic|mask_bce",
    and the norm of each of their gradients, "semantic"; () each.

    A term that acts on the fusion, as the alignment does, does not reach the decoder. It meets the
    others at the 2D head: there it is compared with the sum of those, "alignment|others".

    Call it between the loss and its backward pass: the graph is kept, no `.grad` is touched, no random
    number drawn.

    Args:
        model: OneFormer3D, Mask3D or BiFusion, or Fabric's wrapper of one.
        terms: unweighted scalar loss terms with their graph.
        weights: loss term -> weight; terms without one or with weight 0 do not act.
    """
    model = getattr(model, "module", model)
    acting = {
        name: weights[name] * term
        for name, term in terms.items()
        if weights.get(name, 0.0) != 0.0 and term.requires_grad
    }
    past_decoder = {name: acting.pop(name) for name in list(acting) if acts_on_fusion(name)}
    shared = _trained(model.decoder.shared_weights())  # type: ignore[union-attr]
    figures = _cosines({name: _gradient(term, shared) for name, term in acting.items()})
    if past_decoder and acting:
        head = _trained(model.fusion.head_2d[-1].parameters())  # type: ignore[union-attr,index]
        others = _gradient(torch.stack(list(acting.values())).sum(), head)
        for name, term in past_decoder.items():
            figures |= _cosines({name: _gradient(term, head), OTHERS: others})
    return figures


def conflicts_of(figures: Mapping[str, float]) -> dict[str, float]:
    """Cosine in [-1, 1] of every pair; one in which a gradient is zero or not finite is left out."""
    return {
        pair: max(-1.0, min(1.0, cosine))
        for pair, cosine in figures.items()
        if "|" in pair and all(figures[n] > 0 and math.isfinite(figures[n]) for n in pair.split("|"))
    }


def _trained(parameters) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad]


def _gradient(term: Tensor, weights: Sequence[nn.Parameter]) -> Tensor | None:
    """The term's gradient at `weights` as one vector; None where it does not reach them."""
    if not weights:
        return None
    gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    found = [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights, strict=True)]
    return torch.cat([g.flatten().float() for g in found])


def _cosines(gradients: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Cosine of every pair of gradients, and their norms."""
    present = {name: g for name, g in gradients.items() if g is not None}
    if len(present) < 2:
        return {}
    stacked = torch.stack(list(present.values()))
    norms = stacked.norm(dim=1)
    products = stacked @ stacked.T / (norms[:, None] * norms)
    pairs = combinations(enumerate(present), 2)
    return dict(zip(present, norms.unbind(), strict=True)) | {
        f"{first}|{second}": products[i, j] for (i, first), (j, second) in pairs
    }
