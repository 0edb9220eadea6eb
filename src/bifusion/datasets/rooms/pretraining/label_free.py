"""Contrastive pretraining of the small image tower without labels: against other views and depth.

Two patches that show the same place, in another view, under other colours, zoom and mirroring, are to
be alike, and unlike all others of the batch (as PointContrast, Xie et al. 2020, for pixels); a patch is
to be told from the depth at its place (as CLIP, Radford et al. 2021, with depth in place of text). What
the tower learns from, poses and depth, is what 3D models have too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.data.dataset import SceneDataset
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig
from bifusion.datasets.rooms.pretraining.matches import CropPairs, MatchedViews, draw_pairs, find_matches
from bifusion.datasets.rooms.pretraining.optimising import MAX_LOG_SCALE, START_LOG_SCALE, optimise
from bifusion.errors import InputError
from bifusion.models.towers.clip import ClipEncoder
from bifusion.models.towers.tower import DEPTH_UNIT_M
from bifusion.rng import torch_rng

MOST_PAIRS = 16
"""Patches of a crop that are compared."""
EVALUATED_BATCHES = 8


class ViewMatcher(nn.Module):
    """Patches of images and of depth as unit vectors of one space."""

    def __init__(self, tower: ClipEncoder, dim: int) -> None:
        super().__init__()
        self.tower = tower
        width, patch = tower.out_channels, tower.patch
        self.projection = nn.Linear(width, dim)
        self.depth = nn.Sequential(
            nn.Conv2d(2, width, patch, stride=patch), nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(),
            nn.Conv2d(width, dim, 1),
        )  # fmt: skip
        self.log_scales = nn.Parameter(torch.full((2,), START_LOG_SCALE))
        """Of images against images, and of images against depth."""

    def forward(self, pairs: CropPairs) -> tuple[Tensor, Tensor]:
        """(N, N) each, scaled by the temperature: similarity of the first crops' patches with the other
        crops', and with depth; what belongs together is on the diagonals."""
        one = self._patches(pairs.one, pairs.patch_one)
        other = self._patches(pairs.other, pairs.patch_other)
        seen = torch.cat([pairs.depth_m / DEPTH_UNIT_M, (pairs.depth_m > 0).float()], dim=1)
        depth = self.depth(seen).permute(0, 2, 3, 1).flatten(0, 2).index_select(0, pairs.patch_one)
        scales = self.log_scales.clamp(max=MAX_LOG_SCALE).exp()
        return scales[0] * one @ other.T, scales[1] * one @ F.normalize(depth, dim=1).T

    def _patches(self, images: Tensor, patch: Tensor) -> Tensor:
        without_depth = images.new_zeros(len(images), 1, *images.shape[2:])
        tokens = self.tower(images, without_depth).flatten(0, 2).index_select(0, patch)
        return F.normalize(self.projection(tokens), dim=1)


def train_label_free(
    tower: ClipEncoder,
    rooms_root: Path,
    config: TowerPretrainConfig,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, float], str]:
    """Trains `tower` on rooms_root/train; figures on both splits, and a line that says what was done."""
    train, held_out = (_read_matches(rooms_root, split, config) for split in ("train", "val"))
    model = ViewMatcher(tower, config.embedding_dim)
    optimise(model, lambda step: _loss(model, train, config, step), config, progress)
    result: dict[str, float] = {}
    for split, views in (("train", train), ("held-out", held_out)):
        result |= {f"{split} {key}": value for key, value in evaluate(model, views, config).items()}
    description = (
        "pretrained without labels on patches of other views of the same place and on depth, of rooms "
        f"in {rooms_root.name}, held-out retrieval {result['held-out accuracy']:.2f} "
        f"(chance {result['held-out chance']:.3f})"
    )
    return result, description


def _read_matches(rooms_root: Path, split: str, config: TowerPretrainConfig) -> MatchedViews:
    data = config.views_of(rooms_root)
    views = find_matches(SceneDataset(data, split, config.seed, training=False, annotated=False))
    if len(views.images) == 0:
        raise InputError(
            f"{rooms_root / split}: no view sees a point; expected rooms with views and depth "
            "(`bifusion pretrain-tower` makes them)"
        )
    return views


def _pairs(views: MatchedViews, config: TowerPretrainConfig, *stream: str | int) -> CropPairs:
    patch, number = config.tower.patch_size, max(1, config.batch_size // 2)
    rng = torch_rng(config.seed, *stream)
    return draw_pairs(views, number, MOST_PAIRS, patch, config.crop, rng)


def _loss(
    model: ViewMatcher, views: MatchedViews, config: TowerPretrainConfig, step: int
) -> Tensor | None:
    """Mean of four cross entropies: images and depth, in both directions; None where nothing matches."""
    pairs = _pairs(views, config, "label-free-pretraining", step)
    if len(pairs.patch_one) < 2:
        return None
    target = torch.arange(len(pairs.patch_one))
    terms = [F.cross_entropy(part, target) for s in model(pairs) for part in (s, s.T)]
    return torch.stack(terms).mean()


@torch.no_grad()
def evaluate(model: ViewMatcher, views: MatchedViews, config: TowerPretrainConfig) -> dict[str, float]:
    """How often a patch's nearest among those of other crops is the one of its own place ("accuracy"),
    and among patches of depth its own ("depth accuracy"); "chance" of either."""
    model.eval()
    hits: list[Tensor] = []
    chances: list[float] = []
    for number in range(EVALUATED_BATCHES):
        pairs = _pairs(views, config, "label-free-evaluation", number)
        count = len(pairs.patch_one)
        if count:
            found = torch.stack([part.argmax(1) for part in model(pairs)])
            hits.append((found == torch.arange(count)).float())
            chances += [1 / count] * count
    images, depth = torch.cat(hits, dim=1).mean(dim=1).tolist()
    return {
        "accuracy": images, "depth accuracy": depth, "chance": sum(chances) / len(chances),
    }  # fmt: skip
