"""Random image crops around annotated regions, and what of each region they show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.bounds import PositiveInt
from bifusion.datasets.rooms.pretraining.regions import RegionViews, patch_regions


@dataclass
class CropConfig:
    """Crops are windows of views, zoomed, mirrored and recoloured."""

    size: PositiveInt = 160
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
    images = recoloured(torch.stack([image for image, _ in crops]), config, rng)
    return images, torch.stack([grid for _, grid in crops])


def recoloured(images: Tensor, config: CropConfig, rng: torch.Generator) -> Tensor:
    """(B, 3, H, W) in [0, 1], each channel of each image with a gain and an offset of its own."""
    gain, offset = torch.rand(2, len(images), 3, 1, 1, generator=rng) * 2 - 1
    return (images * (1 + config.gain * gain) + config.offset * offset).clamp(0, 1)


def _crop(
    views: RegionViews, region: int, patch_size: int, config: CropConfig, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One crop (3, size, size) and the regions of its patches (h, w)."""
    view = int(views.region_view[region])
    pixel, regions = views.points_of(view)
    shown = pixel[regions == region]
    window = draw_window(config, rng)
    window.centre = shown[int(torch.randint(len(shown), (1,), generator=rng))]
    patches = config.size // patch_size
    grid = patch_regions(window.moved(pixel), regions, patches, patches, patch_size)
    return sample_image(views.images[view], *window.places()), grid


@dataclass
class Window:
    """A square cut out of a view: pixel x of the view lies at (x - centre) · zoom · sign + target."""

    size: int
    zoom: Tensor
    signs: Tensor
    """(2,) -1 where mirrored."""
    target: Tensor
    """(2,) pixel of the window that shows `centre`."""
    centre: Tensor
    """(2,) pixel of the view."""

    def moved(self, pixel: Tensor) -> Tensor:
        """Where in the window pixels (n, 2) of the view lie, perhaps outside."""
        return (pixel - self.centre) * self.zoom * self.signs + self.target

    def places(self) -> tuple[Tensor, Tensor]:
        """Columns and rows of the view, (size,) each, that the window's pixels show."""
        steps = torch.arange(self.size)
        x = (steps - self.target[0]) / (self.zoom * self.signs[0]) + self.centre[0]
        return x, (steps - self.target[1]) / self.zoom + self.centre[1]


def draw_window(config: CropConfig, rng: torch.Generator) -> Window:
    """A window of random zoom and place, perhaps mirrored; its centre is still to be chosen."""
    low, high = config.zoom
    zoom = low * (high / low) ** torch.rand(1, generator=rng)
    signs = torch.tensor([float(torch.rand(1, generator=rng) < 0.5) * 2 - 1, 1.0])
    middle = (config.size - 1) / 2
    target = middle + config.size * config.shift * (2 * torch.rand(2, generator=rng) - 1)
    return Window(config.size, zoom, signs, target, torch.zeros(2))


def sample_image(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(3, len(y), len(x)) in [0, 1]: a uint8 image at columns x and rows y, bilinear; mirrored at
    its border."""
    grid = sampling_grid(image, x, y)
    return F.grid_sample(
        image[None].float() / 255, grid, padding_mode="reflection", align_corners=False
    )[0]


def sampling_grid(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(1, len(y), len(x), 2) where columns x and rows y of an image are, as `grid_sample` takes them."""
    height, width = image.shape[-2:]
    grid_x, grid_y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    return torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)[None]


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
