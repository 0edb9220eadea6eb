"""The matches of all decoder outputs and scenes of a batch, for which the host waits for a GPU once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bifusion.losses.matcher import NonFiniteCostError, match_own_superpoint
from bifusion.types import Targets

Match = tuple[Tensor, Tensor]
"""(K,) queries and (K,) instances matched with each other."""


def match_one_to_one(
    costs: Sequence[Sequence[Tensor]], scenes: Sequence[str], layers: Sequence[int]
) -> list[list[Match]]:
    """Cheapest one-to-one assignments of costs[layer][scene], (Q, G) each.

    `layers` are the decoder outputs they belong to. Raises NonFiniteCostError.
    """
    flat = [cost for of_layer in costs for cost in of_layer]
    device = flat[0].device
    numbers = torch.cat([cost.flatten() for cost in flat]).cpu()
    parts = numbers.split([cost.numel() for cost in flat])
    on_host = [part.view_as(cost) for part, cost in zip(parts, flat, strict=True)]
    check_counts([int((~torch.isfinite(cost)).sum()) for cost in on_host], flat, scenes, layers)
    found = [linear_sum_assignment(cost.numpy()) for cost in on_host]
    pairs = [torch.as_tensor(indices, dtype=torch.int64) for match in found for indices in match]
    there = torch.cat(pairs).to(device, non_blocking=True).split([len(indices) for indices in pairs])
    matches = list(zip(there[::2], there[1::2], strict=True))
    return [matches[i : i + len(scenes)] for i in range(0, len(matches), len(scenes))]


def match_to_own_superpoints(
    costs: Sequence[Sequence[Tensor]],
    targets: Sequence[Targets],
    query_superpoints: Sequence[Tensor],
    scenes: Sequence[str],
    layers: Sequence[int],
) -> list[list[Match]]:
    """`match_own_superpoint` of costs[layer][scene], (Q, G) each, with the superpoints that the queries
    of each scene are made of. Raises NonFiniteCostError."""
    contained = [
        target.masks.index_select(1, superpoints).T
        for target, superpoints in zip(targets, query_superpoints, strict=True)
    ]
    with_query = [inside.any(dim=0) for inside in contained]
    flat = [cost for of_layer in costs for cost in of_layer]
    bad = torch.stack([(~torch.isfinite(cost)).sum() for cost in flat])
    answers = torch.cat([bad, *(some.long() for some in with_query)]).tolist()
    check_counts(answers[: len(flat)], flat, scenes, layers)
    sizes = [sum(part) for part in _split(answers[len(flat) :], [len(some) for some in with_query])]
    instances = [
        torch.nonzero_static(some, size=size)[:, 0] for some, size in zip(with_query, sizes, strict=True)
    ]
    return [
        [match_own_superpoint(*scene) for scene in zip(of_layer, contained, instances, strict=True)]
        for of_layer in costs
    ]


def check_counts(
    bad: Sequence[int], costs: Sequence[Tensor], scenes: Sequence[str], layers: Sequence[int]
) -> None:
    """NonFiniteCostError for the first of the costs, a scene after the other in each layer, that has
    entries which are not finite; `bad` numbers of them."""
    for index, (count, cost) in enumerate(zip(bad, costs, strict=True)):
        if count:
            layer, scene = divmod(index, len(scenes))
            raise NonFiniteCostError(scenes[scene], layers[layer], count, cost.numel())


def _split(values: list[int], sizes: list[int]) -> list[list[int]]:
    parts = iter(values)
    return [[next(parts) for _ in range(size)] for size in sizes]
