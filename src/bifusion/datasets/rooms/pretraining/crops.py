"""Random image crops around annotated regions, and what of each region they show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.datasets.rooms.pretraining.regions import RegionViews, patch_regions


@dataclass
class CropConfig:
    """Crops are windows of views, zoomed, mirrored and recoloured."""

    size: int = 160
    """Side in pixels, a multiple of the tower's patch."""
    zoom: tuple[float, float] = (0.8, 1.6)
    """Range of the factor on the size of what a crop shows."""
    shift: float = 0.3
    """The region's point lies within this share of the side from the crop's middle."""
    gain: float = 0.4
    """Each colour channel is multiplied by its own factor within 1 ± this."""
    offset: float = 0.15
    """And shifted by up to this share of the colour range."""


def draw_crops(
    views: RegionViews, number: int, patch_size: int, config: CropConfig, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crops around random regions, rare classes more often.

    Returns:
        images (number, 3, size, size) float32 in [0, 1].
        grid (number, h, w) int64: region of each patch, -1 none.
    """
    count = torch.bincount(views.region_class).clamp(min=1)
    weight = count.float().rsqrt()[views.region_class]
    chosen = torch.multinomial(weight, number, replacement=True, generator=rng)
    crops = [_crop(views, int(region), patch_size, config, rng) for region in chosen]
    images = torch.stack([image for image, _ in crops])
    gain, offset = torch.rand(2, number, 3, 1, 1, generator=rng) * 2 - 1
    images = images * (1 + config.gain * gain) + config.offset * offset
    return images.clamp(0, 1), torch.stack([grid for _, grid in crops])


def _crop(
    views: RegionViews, region: int, patch_size: int, config: CropConfig, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One crop (3, size, size) and the regions of its patches (h, w)."""
    view = int(views.region_view[region])
    pixel, regions = views.points_of(view)
    shown = pixel[regions == region]
    low, high = config.zoom
    zoom = low * (high / low) ** torch.rand(1, generator=rng)
    signs = torch.tensor([float(torch.rand(1, generator=rng) < 0.5) * 2 - 1, 1.0])
    middle = (config.size - 1) / 2
    target = middle + config.size * config.shift * (2 * torch.rand(2, generator=rng) - 1)
    centre = shown[int(torch.randint(len(shown), (1,), generator=rng))]
    # Pixel x of the view lies at u = (x - centre) · zoom · sign + target in the crop.
    moved = (pixel - centre) * zoom * signs + target
    patches = config.size // patch_size
    grid = patch_regions(moved, regions, patches, patches, patch_size)
    steps = torch.arange(config.size)
    x = (steps - target[0]) / (zoom * signs[0]) + centre[0]
    y = (steps - target[1]) / zoom + centre[1]
    return sample_image(views.images[view], x, y), grid


def sample_image(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(3, len(y), len(x)) in [0, 1]: a uint8 image at columns x and rows y, bilinear; mirrored at
    its border."""
    height, width = image.shape[-2:]
    grid_x, grid_y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)[None]
    return F.grid_sample(
        image[None].float() / 255, grid, padding_mode="reflection", align_corners=False
    )[0]


def shown_regions(grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The annotated patches of crops (B, h, w), and the region each shows; twice in two crops.

    Returns:
        patch (P,) int64, counted over all crops row by row; shown (P,) int64, 0 … R'-1: which shown
        region it belongs to; region (R',) int64: which region that is.
    """
    crop = torch.arange(len(grid))[:, None, None].expand_as(grid).reshape(-1)
    region = grid.reshape(-1)
    patch = torch.nonzero(region >= 0)[:, 0]
    keys, shown = torch.unique(
        torch.stack([crop[patch], region[patch]], dim=1), dim=0, return_inverse=True
    )
    return patch, shown, keys[:, 1]
