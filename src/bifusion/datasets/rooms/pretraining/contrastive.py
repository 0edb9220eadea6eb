"""Contrastive pretraining of the small image tower; by default, image crops against class names.

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
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.data.dataset import SceneDataset
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig, check_pretraining
from bifusion.datasets.rooms.pretraining.crops import draw_crops, shown_regions
from bifusion.datasets.rooms.pretraining.label_free import train_label_free
from bifusion.datasets.rooms.pretraining.optimising import MAX_LOG_SCALE, START_LOG_SCALE, optimise
from bifusion.datasets.rooms.pretraining.regions import RegionViews, find_regions, patch_regions
from bifusion.errors import InputError
from bifusion.labels.sets import get_label_set
from bifusion.models.towers.clip import ClipEncoder
from bifusion.rng import seed_cpu, torch_rng
from bifusion.storage.files import write_tensors


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
        self.log_scale = nn.Parameter(torch.tensor(START_LOG_SCALE))
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
        retrieval accuracies, chance, seconds. Of names: of the right class name by a whole region, over
        regions and averaged over classes, on both splits. Of views: see `label_free.evaluate`.

    Raises:
        InputError: rooms without views or, where names are learned, annotation; a configuration that
            `check_pretraining` refuses.
    """
    started = time.monotonic()
    check_pretraining(config, "pretraining")
    with torch.random.fork_rng(devices=[]):
        seed_cpu(config.seed, "clip-pretraining")
        tower = ClipEncoder(dataclasses.replace(config.tower, depth_channel=False))
        start_as_cosines(tower.conv1_rgb)
        train = train_on_names if config.objective == "names" else train_label_free
        result, description = train(tower, rooms_root, config, progress)
    result["seconds"] = time.monotonic() - started
    metadata = {"description": description, "config": json.dumps(dataclasses.asdict(config))}
    write_tensors(out, tower.open_clip_state(), metadata)
    return result


def train_on_names(
    tower: ClipEncoder,
    rooms_root: Path,
    config: TowerPretrainConfig,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, float], str]:
    """Trains `tower` on regions and the names of their classes; figures, and a line that says so."""
    train = _read_regions(rooms_root, "train", config)
    held_out = _read_regions(rooms_root, "val", config)
    names = get_label_set(config.label_set).class_names
    model = NameMatcher(tower, names, config.embedding_dim)
    optimise(model, lambda step: _loss(model, train, config, step), config, progress)
    result = {"chance": 1 / len(names)}
    for split, views in (("train", train), ("held-out", held_out)):
        result |= {f"{split} {key}": value for key, value in evaluate(model, views).items()}
    description = (
        f"pretrained contrastively on image crops and class names of rooms in {rooms_root.name} (their "
        "labels are supervision that 3D models do not get), held-out retrieval "
        f"{result['held-out accuracy']:.2f} (chance {result['chance']:.2f})"
    )
    return result, description


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
    data = config.views_of(rooms_root)
    views = find_regions(SceneDataset(data, split, config.seed, training=False))
    if len(views.region_class) == 0:
        raise InputError(
            f"{rooms_root / split}: no view shows an annotated region; expected rooms with views and "
            "labels (`bifusion pretrain-tower` makes them)"
        )
    return views


def _loss(
    model: NameMatcher, views: RegionViews, config: TowerPretrainConfig, step: int
) -> Tensor | None:
    """Every name is a negative of every region of another class; None where no region is shown."""
    rng = torch_rng(config.seed, "clip-pretraining", step)
    images, grid = draw_crops(views, config.batch_size, config.tower.patch_size, config.crop, rng)
    patch, shown, region = shown_regions(grid)
    if len(region) == 0:
        return None
    similarity = model(images, patch, torch.arange(len(patch)), len(patch))
    wrong = F.cross_entropy(similarity, views.region_class[region][shown], reduction="none")
    # Every region counts as one crop, however many of its patches are shown.
    return (wrong / torch.bincount(shown)[shown]).sum() / len(region)


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
