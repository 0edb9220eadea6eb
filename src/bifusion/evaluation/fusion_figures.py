"""What the fusion does on validation points: how much 2D is let in, and how well 2D and 3D agree."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.rng import torch_rng
from bifusion.types import Batch, FusionTrace

CANDIDATES = 100
"""Retrieval looks for a point among this many of its scene."""
MAX_GROUPS = 10
"""Groups of that many points a scene."""
LOW_SEEN_SHARE = 0.01

_logger = logging.getLogger("bifusion.fusion")


def share_of_2d(gate: Tensor, f2d: Tensor, f3d: Tensor) -> Tensor:
    """(K,) the part 2D really has: ‖g·f2d‖ / (‖g·f2d‖ + ‖(1 − g)·f3d‖), 0 where both vanish."""
    part_2d = gate.abs() * f2d.norm(dim=1)
    part_3d = (1 - gate).abs() * f3d.norm(dim=1)
    return part_2d / (part_2d + part_3d).clamp(min=1e-12)


def seen_share(trace: FusionTrace | None, batch: Batch) -> float:
    """Share of the batch's points that at least one view sees; 0 where no 2D branch ran."""
    if trace is None:
        return 0.0
    return float(trace.seen.index_select(0, batch.point_to_voxel).float().mean())


def warn_if_unseen(where: str, share: float) -> None:
    """Says so where views see next to nothing, as they do when poses or intrinsics are wrong: nothing
    else would, the model then goes by geometry alone."""
    if share < LOW_SEEN_SHARE:
        _logger.warning(
            "%s: views see %.1f %% of the points, the rest goes by geometry alone; if there are views, "
            "check their poses, intrinsics and depth",
            where,
            100 * share,
        )


class Agreement:
    """How well one feature of a point tells the other: cosine, and retrieval among 100 points."""

    def __init__(self, seed: int):
        self._seed = seed
        self._cosine, self._weight = 0.0, 0.0
        self._found = self._asked = 0

    def add(self, f2d: Tensor, f3d: Tensor, weight: Tensor, scene: Tensor, batch: Batch) -> None:
        """Counts seen voxels: features (K, D) of both kinds, weight (K,) and scene index (K,)."""
        f2d, f3d = F.normalize(f2d.float(), dim=1), F.normalize(f3d.float(), dim=1)
        self._cosine += float((weight * (f2d * f3d).sum(1)).sum())
        self._weight += float(weight.sum())
        for b, name in enumerate(batch.names):
            rows = (scene == b).nonzero()[:, 0]
            order = torch.randperm(len(rows), generator=torch_rng(self._seed, "retrieval", name))
            rows = rows.index_select(0, order.to(rows.device))
            whole_groups = rows[: len(rows) // CANDIDATES * CANDIDATES].reshape(-1, CANDIDATES)
            for group in whole_groups[:MAX_GROUPS]:
                self._retrieve(f2d.index_select(0, group), f3d.index_select(0, group))

    def _retrieve(self, query: Tensor, candidates: Tensor) -> None:
        """Points of distinct voxels: those of one voxel have one feature, none could tell them apart."""
        best = (query @ candidates.T).argmax(dim=1)
        self._found += int((best == torch.arange(len(best), device=best.device)).sum())
        self._asked += len(best)

    def merge(self, other: Agreement) -> None:
        """Adds what another one has counted."""
        self._cosine += other._cosine
        self._weight += other._weight
        self._found += other._found
        self._asked += other._asked

    def compute(self) -> dict[str, float | None]:
        """`cosine` in [-1, 1], None where no point is seen; `retrieval_at_1` in [0, 1], 0.01 by
        chance, None where no scene has 100 seen voxels."""
        return {
            "cosine": self._cosine / self._weight if self._weight else None,
            "retrieval_at_1": self._found / self._asked if self._asked else None,
        }


class FusionFigures:
    """Figures over the validation points that at least one view sees, added up batch by batch."""

    def __init__(self, seed: int):
        self._points = self._seen = 0
        self._gate = self._share = 0.0
        self._learned = True
        self._direct, self._predicted = Agreement(seed), Agreement(seed)

    @torch.no_grad()
    def add(self, trace: FusionTrace, batch: Batch) -> None:
        """Counts one batch; every voxel weighs as many as it has points."""
        points = torch.bincount(batch.point_to_voxel, minlength=len(trace.seen))
        seen = trace.seen_rows
        weight = points.index_select(0, seen).double()
        f2d = trace.seen_f2d.float()
        f3d = trace.f3d.index_select(0, seen).float()
        gate = trace.gate.index_select(0, seen).float()
        self._learned &= trace.learned
        self._points += int(points.sum())
        self._seen += int(weight.sum())
        self._gate += float((weight * gate).sum())
        self._share += float((weight * share_of_2d(gate, f2d, f3d)).sum())
        scene = batch.voxel_coords[:, 0].index_select(0, seen)
        self._direct.add(f2d, f3d, weight, scene, batch)
        for predicted, target in trace.alignment_pairs:
            self._predicted.add(predicted, target, weight, scene, batch)

    def merge(self, other: FusionFigures) -> None:
        """Adds what another one has counted."""
        self._learned &= other._learned
        self._points += other._points
        self._seen += other._seen
        self._gate += other._gate
        self._share += other._share
        self._direct.merge(other._direct)
        self._predicted.merge(other._predicted)

    def compute(self) -> dict[str, Any]:
        """Figures of all points counted; None where there is nothing to count.

        `fusion_2d_ratio`: mean gate (None for a gate that is not learned, or is shut); `share_2d`;
        `seen_share` of all points; `alignment`: `Agreement.compute` of the two features, and, as
        "predicted_cosine" and "predicted_retrieval_at_1", of what the alignment's predictor makes of
        the 2D feature with the 3D feature.
        """
        any_seen = self._seen > 0
        seen = max(self._seen, 1)
        predicted = {f"predicted_{name}": value for name, value in self._predicted.compute().items()}
        return {
            "fusion_2d_ratio": self._gate / seen if any_seen and self._learned else None,
            "share_2d": self._share / seen if any_seen else None,
            "seen_share": self._seen / self._points if self._points else None,
            "alignment": {**self._direct.compute(), **predicted},
        }
