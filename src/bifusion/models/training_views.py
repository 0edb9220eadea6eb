"""What of the views a training step uses: all that see a voxel or one of them, everywhere or in places.

By default everything, and then nothing is drawn. Choices come from the batch's own numbers, so that a
step can be repeated. Evaluation always uses everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bifusion.bounds import Share
from bifusion.geometry import Sightings
from bifusion.rng import torch_rng
from bifusion.types import Batch


@dataclass
class TrainingViewsConfig:
    """Regularisation of the 2D branch."""

    feature: Literal["mean", "random"] = "mean"
    """A voxel's 2D feature: the mean over the views that see it, or that of one of these, drawn anew
    each time (evaluation: the mean)."""
    dropout: Share = 0.0
    """Share of superpoints that count as unseen, drawn anew each time a scene is trained on, so that the
    3D branch learns to do without images. SegDINO3D (2025) leaves out such a share of its 2D object
    queries: 0.7 on ScanNet200, 0.1 on ScanNet."""


def used_sightings(sightings: Sightings, batch: Batch, config: TrainingViewsConfig) -> Sightings:
    """The sightings that a training step uses; the very same ones by default."""
    if config.feature == "random":
        sightings = one_view_each(sightings, batch)
    if config.dropout > 0:
        sightings = without_dropped(sightings, batch, config.dropout)
    return sightings


def one_view_each(sightings: Sightings, batch: Batch) -> Sightings:
    """One sighting of each voxel that is seen, each of its own as likely as the others."""
    count, seen = sightings.count, sightings.seen_rows
    draws = _per_scene(batch, batch.voxels_per_scene, "random-view").to(count.device)
    first = (count.cumsum(0) - count).index_select(0, seen)
    of_seen = count.index_select(0, seen)
    place = (draws.index_select(0, seen) * of_seen).long().clamp(max=of_seen - 1)
    chosen = first + place
    return Sightings(
        voxel=seen,
        view=sightings.view.index_select(0, chosen),
        pixel=sightings.pixel.index_select(0, chosen),
        count=(count > 0).long(),
        rows=seen,
    )


def without_dropped(sightings: Sightings, batch: Batch, share: float) -> Sightings:
    """The sightings of voxels with a point in a superpoint that is kept."""
    draws = _per_scene(batch, batch.superpoints_per_scene, "2d-dropout")
    of_point = (draws >= share).long().to(batch.point_to_superpoint.device)
    of_point = of_point.index_select(0, batch.point_to_superpoint)
    points = of_point.new_zeros(len(sightings.count)).index_add(0, batch.point_to_voxel, of_point)
    kept = points > 0
    seen = sightings.seen_rows
    stays = torch.nonzero(kept.index_select(0, sightings.voxel))[:, 0]
    return Sightings(
        voxel=sightings.voxel.index_select(0, stays),
        view=sightings.view.index_select(0, stays),
        pixel=sightings.pixel.index_select(0, stays),
        count=torch.where(kept, sightings.count, 0),
        rows=seen[kept.index_select(0, seen)],
    )


def _per_scene(batch: Batch, counts: list[int], purpose: str) -> Tensor:
    """A number in [0, 1) for each of so many rows a scene, from that scene's own stream."""
    draws = [
        torch.rand(count, generator=torch_rng(seed, purpose))
        for count, seed in zip(counts, batch.seeds, strict=True)
    ]
    return torch.cat(draws)
