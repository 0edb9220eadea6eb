"""Contrastive pretraining of the small image tower: image crops against class names.

The demo's stand-in for CLIP's pretraining (Radford et al. 2021): crops of annotated regions of
rooms that no data set uses, and the names of their classes, are the only supervision. Every patch
token of a region is matched with the region's name, so that the tokens themselves, which BiFusion
lifts, learn to carry what it says.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.data.dataset import DataConfig, SceneDataset
from bifusion.datasets.rooms.pretraining.crops import CropConfig, draw_crops, shown_regions
from bifusion.datasets.rooms.pretraining.regions import RegionViews, find_regions, patch_regions
from bifusion.errors import InputError
from bifusion.labels.sets import get_label_set
from bifusion.models.towers.clip import ClipConfig, ClipEncoder
from bifusion.rng import derive_seed, torch_rng
from bifusion.storage.files import write_tensors

MAX_LOG_SCALE = math.log(100)
"""CLIP's own bound on the learned inverse temperature."""


def _small_tower() -> ClipConfig:
    return ClipConfig(architecture="small", blocks=4)


@dataclass
class TowerPretrainConfig:
    """Defaults take about a minute on 2 cores."""

    tower: ClipConfig = field(default_factory=_small_tower)
    label_set: str = "scannet20"
    """Classes whose names stand on the other side of the contrast."""
    image_size: int = 320
    """Long side of the images in pixels."""
    views_per_scene: int = 8
    """Most views of a room that are used."""
    voxel_size_m: float = 0.04
    """Spacing of the projected labels; a patch must catch several."""
    embedding_dim: int = 128
    """Width of the space that both sides share."""
    steps: int = 500
    """Optimiser steps."""
    batch_size: int = 16
    """Crops a step."""
    lr: float = 1e-3
    """Learning rate at its height."""
    weight_decay: float = 0.05
    """AdamW's, decoupled."""
    warmup_steps: int = 40
    """Steps in which the rate rises from 0."""
    crop: CropConfig = field(default_factory=CropConfig)
    seed: int = 0
    """All randomness comes from it."""


class NameMatcher(nn.Module):
    """Both sides of the contrast: regions and class names as unit vectors of one space.

    The text side is tiny: one learned vector a word of the names, averaged and projected.
    """

    word_of_name: Tensor

    def __init__(self, tower: ClipEncoder, class_names: tuple[str, ...], dim: int) -> None:
        super().__init__()
        self.tower = tower
        self.region_projection = nn.Linear(tower.out_channels, dim)
        words = sorted({word for name in class_names for word in name.split()})
        self.words = nn.Embedding(len(words), dim)
        self.name_projection = nn.Linear(dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        shares = [
            [name.split().count(word) / len(name.split()) for word in words] for name in class_names
        ]
        self.register_buffer("word_of_name", torch.tensor(shares))

    def forward(self, images: Tensor, patch: Tensor, region: Tensor, num_regions: int) -> Tensor:
        """Similarity of regions and class names, (num_regions, C), scaled by the temperature.

        Args:
            images: (V, 3, H, W) in [0, 1].
            patch: (P,) int64 patches, counted over all views row by row.
            region: (P,) int64 region of each, 0 … num_regions-1.
        """
        without_depth = images.new_zeros(len(images), 1, *images.shape[2:])
        tokens = self.tower(images, without_depth).flatten(0, 2).index_select(0, patch)
        sums = tokens.new_zeros(num_regions, tokens.shape[1]).index_add(0, region, tokens)
        counts = torch.bincount(region, minlength=num_regions).clamp(min=1)
        regions = F.normalize(self.region_projection(sums / counts[:, None]), dim=1)
        names = F.normalize(self.name_projection(self.word_of_name @ self.words.weight), dim=1)
        return self.log_scale.clamp(max=MAX_LOG_SCALE).exp() * regions @ names.T


def pretrain_tower(
    rooms_root: Path,
    out: Path,
    config: TowerPretrainConfig,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Trains on rooms_root/train, measures on rooms_root/val, writes the tower to `out`.

    `out` is a safetensors file with open_clip's tensor names, for `ClipConfig.pretrained`.

    Returns:
        retrieval accuracies of the right class name by a whole region, over regions and averaged
        over classes, on both splits; chance (one name among all); seconds.

    Raises:
        InputError: rooms without views or annotation; a tower with dense features of its own, which
            stand for a space of words that this training knows nothing of.
    """
    started = time.monotonic()
    if config.tower.dense != "tokens" or config.tower.register_neurons:
        raise InputError(
            f"tower.dense is {config.tower.dense!r} with {len(config.tower.register_neurons)} register "
            "neurons; only plain tokens are pretrained: use dense 'tokens' and no register neurons"
        )
    train = _read_regions(rooms_root, "train", config)
    held_out = _read_regions(rooms_root, "val", config)
    names = get_label_set(config.label_set).class_names
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "clip-pretraining"))
        tower = ClipEncoder(dataclasses.replace(config.tower, depth_channel=False))
        start_as_cosines(tower.conv1_rgb)
        model = NameMatcher(tower, names, config.embedding_dim)
    _train(model, train, config, progress)
    result = {"chance": 1 / len(names)}
    for split, views in (("train", train), ("held-out", held_out)):
        result |= {f"{split} {key}": value for key, value in evaluate(model, views).items()}
    result["seconds"] = time.monotonic() - started
    _save(tower, out, rooms_root, result, config)
    return result


@torch.no_grad()
def start_as_cosines(conv1: nn.Conv2d) -> None:
    """Patch embedding at the start: a 2-D cosine transform of each patch, lowest frequencies first.

    Three quarters of the filters see brightness, the rest two colour differences; they grow with the
    root of the frequency, as the spectra of images fall. A few hundred steps on little data do not
    find such filters from random ones, and without them textures are hardly told apart.
    """
    patch, channels = conv1.kernel_size[0], conv1.out_channels
    places = (torch.arange(patch) + 0.5) * math.pi / patch
    waves = torch.cos(torch.arange(patch)[:, None] * places) * math.sqrt(2 / patch)
    waves[0] /= math.sqrt(2)
    pairs = sorted(itertools.product(range(patch), repeat=2), key=lambda pair: (max(pair), pair))
    colors = F.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]]), dim=1)
    shares = (channels - 2 * (channels // 8), channels // 8, channels // 8)
    filters = []
    for color, share in zip(colors, shares, strict=True):
        for down, across in itertools.islice(itertools.cycle(pairs), share):
            size = 0.15 * max(down, across) ** 0.5 if down or across else 1 / patch
            filters.append(size * color[:, None, None] * waves[down][:, None] * waves[across])
    conv1.weight.copy_(torch.stack(filters))


def _read_regions(rooms_root: Path, split: str, config: TowerPretrainConfig) -> RegionViews:
    data = DataConfig(
        root=rooms_root,
        label_set=config.label_set,
        voxel_size_m=config.voxel_size_m,
        max_views=config.views_per_scene,
        image_size=config.image_size,
        patch_size=config.tower.patch_size,
    )
    views = find_regions(SceneDataset(data, split, config.seed, training=False))
    if len(views.region_class) == 0:
        raise InputError(
            f"{rooms_root / split}: no view shows an annotated region; expected rooms with views and "
            "labels (`bifusion pretrain-tower` makes them)"
        )
    return views


def _train(
    model: NameMatcher,
    views: RegionViews,
    config: TowerPretrainConfig,
    progress: Callable[[int, int], None] | None,
) -> None:
    """AdamW with warm-up and cosine decay; every name is a negative of every region of another class."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    patch_size = config.tower.patch_size
    model.train()
    for step in range(config.steps):
        warm = min(1.0, (step + 1) / config.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        rng = torch_rng(config.seed, "clip-pretraining", step)
        images, grid = draw_crops(views, config.batch_size, patch_size, config.crop, rng)
        patch, shown, region = shown_regions(grid)
        if len(region) == 0:
            continue
        similarity = model(images, patch, torch.arange(len(patch)), len(patch))
        wrong = F.cross_entropy(similarity, views.region_class[region][shown], reduction="none")
        # Every region counts as one crop, however many of its patches are shown.
        loss = (wrong / torch.bincount(shown)[shown]).sum() / len(region)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress:
            progress(step + 1, config.steps)


@torch.no_grad()
def evaluate(model: NameMatcher, views: RegionViews, batch_views: int = 16) -> dict[str, float]:
    """How often a whole region's nearest class name is its own: over regions, and mean of classes."""
    model.eval()
    patch_size = model.tower.size.patch_size
    rows, columns = (side // patch_size for side in views.images.shape[-2:])
    hits, truth = [], []
    for first in range(0, len(views.images), batch_views):
        images = views.images[first : first + batch_views].float() / 255
        points = [views.points_of(view) for view in range(first, first + len(images))]
        grid = torch.cat([patch_regions(*p, rows, columns, patch_size).reshape(-1) for p in points])
        patch = torch.nonzero(grid >= 0)[:, 0]
        regions, shown = torch.unique(grid[patch], return_inverse=True)
        similarity = model(images, patch, shown, len(regions))
        truth.append(views.region_class[regions])
        hits.append(similarity.argmax(1) == truth[-1])
    hit, classes = torch.cat(hits).float(), torch.cat(truth)
    of_class = [hit[classes == c].mean() for c in torch.unique(classes)]
    return {"accuracy": hit.mean().item(), "class accuracy": torch.stack(of_class).mean().item()}


def _save(
    tower: ClipEncoder,
    out: Path,
    rooms_root: Path,
    result: dict[str, float],
    config: TowerPretrainConfig,
) -> None:
    description = (
        f"pretrained contrastively on image crops and class names of rooms in {rooms_root.name} (their "
        "labels are supervision that 3D models do not get), held-out retrieval "
        f"{result['held-out accuracy']:.2f} (chance {result['chance']:.2f})"
    )
    metadata = {"description": description, "config": json.dumps(dataclasses.asdict(config))}
    write_tensors(out, tower.open_clip_state(), metadata)
