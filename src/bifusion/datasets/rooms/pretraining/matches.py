"""The same places of rooms in different views: what a pretraining without labels learns from.

Which pixels of two views show one voxel follows from poses and depth alone, by the visibility test that
features are lifted with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.datasets.rooms.pretraining.crops import (
    CropConfig,
    Window,
    draw_window,
    recoloured,
    sample_image,
    sampling_grid,
)
from bifusion.geometry import LiftingConfig, find_sightings


@dataclass
class MatchedViews:
    """V views of equal size and the voxels that they see, numbered over all rooms."""

    images: Tensor
    """(V, 3, H, W) uint8 RGB."""
    depth_m: Tensor
    """(V, 1, H, W) float32 at the images' pixels, 0 none."""
    pixel: list[Tensor]
    """V × (n, 2) float32: where each view sees its voxels."""
    voxel: list[Tensor]
    """V × (n,) int64, ascending: which these are."""
    scene: Tensor
    """(V,) int64."""


def find_matches(dataset: SceneDataset) -> MatchedViews:
    """All views of a data set read without augmentation; views that see nothing are left out."""
    images, depths, pixels, voxels, scenes, first = [], [], [], [], [], 0
    for index in range(len(dataset)):
        batch = collate([dataset.sample(index, epoch=0)])
        position, scene = batch.voxel_position_m, batch.voxel_coords[:, 0]
        sightings = find_sightings(position, scene, batch.views, LiftingConfig())
        for number, view in enumerate(batch.views):
            rows = torch.nonzero(sightings.view == number)[:, 0]
            if len(rows):
                images.append((view.image * 255).round().byte())
                depths.append(view.image_depth_m)
                pixels.append(sightings.pixel[rows])
                voxels.append(sightings.voxel[rows] + first)
                scenes.append(index)
        first += len(position)
    if not images:
        return MatchedViews(
            torch.zeros(0, 3, 0, 0), torch.zeros(0, 1, 0, 0), [], [], torch.zeros(0).long()
        )
    return MatchedViews(
        torch.stack(images), torch.stack(depths), pixels, voxels, torch.tensor(scenes, dtype=torch.int64)
    )


@dataclass
class CropPairs:
    """B pairs of crops, and N pairs of patches in them that show a common voxel."""

    one: Tensor
    """(B, 3, size, size) in [0, 1]."""
    other: Tensor
    """(B, 3, size, size), of another view or another crop of the same, mirrored, zoomed and recoloured
    on its own."""
    depth_m: Tensor
    """(B, 1, size, size) of the first crop, 0 none."""
    patch_one: Tensor
    """(N,) int64 patches of the first crops, counted over all of them row by row; each once."""
    patch_other: Tensor
    """(N,) int64 patches of the other crops, likewise."""


def draw_pairs(
    views: MatchedViews, number: int, most: int, patch: int, config: CropConfig, rng: torch.Generator
) -> CropPairs:
    """`number` pairs of crops around voxels that both views see; at most `most` patches of each."""
    patches = config.size // patch
    ones, others, depths, rows_one, rows_other = [], [], [], [], []
    for index in range(number):
        (a, window_a), (b, window_b) = _two_windows(views, config, rng)
        cells = [
            _cells(views, view, window, patch, patches)
            for view, window in ((a, window_a), (b, window_b))
        ]
        cell_a, cell_b = _common(cells[0], cells[1], most, rng)
        rows_one.append(cell_a + index * patches**2)
        rows_other.append(cell_b + index * patches**2)
        ones.append(sample_image(views.images[a], *window_a.places()))
        others.append(sample_image(views.images[b], *window_b.places()))
        depths.append(_sample_depth(views.depth_m[a], *window_a.places()))
    return CropPairs(
        recoloured(torch.stack(ones), config, rng),
        recoloured(torch.stack(others), config, rng),
        torch.stack(depths),
        torch.cat(rows_one),
        torch.cat(rows_other),
    )


def _two_windows(
    views: MatchedViews, config: CropConfig, rng: torch.Generator
) -> tuple[tuple[int, Window], tuple[int, Window]]:
    """A random view and another that sees the voxel which its window is laid around (or, where none
    does, the same once more)."""
    a = _any(len(views.images), rng)
    voxel = views.voxel[a][_any(len(views.voxel[a]), rng)]
    beside = torch.nonzero(views.scene == views.scene[a])[:, 0].tolist()
    seeing = [view for view in beside if view != a and _place_of(views, view, voxel) is not None]
    b = seeing[_any(len(seeing), rng)] if seeing else a
    windows = draw_window(config, rng), draw_window(config, rng)
    for view, window in zip((a, b), windows, strict=True):
        place = _place_of(views, view, voxel)
        assert place is not None
        window.centre = views.pixel[view][place]
    return (a, windows[0]), (b, windows[1])


def _any(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=rng))


def _place_of(views: MatchedViews, view: int, voxel: Tensor) -> int | None:
    """Where among the voxels of a view one of them is; None where the view does not see it."""
    seen = views.voxel[view]
    place = int(torch.searchsorted(seen, voxel))
    return place if place < len(seen) and seen[place] == voxel else None


def _cells(
    views: MatchedViews, view: int, window: Window, patch: int, patches: int
) -> tuple[Tensor, Tensor]:
    """Voxels within a window, ascending, and the patch that each lies in."""
    cell = ((window.moved(views.pixel[view]) + 0.5) / patch).floor().long()
    inside = ((cell >= 0) & (cell < patches)).all(1)
    return views.voxel[view][inside], (cell[:, 1] * patches + cell[:, 0])[inside]


def _common(
    one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], most: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pairs of patches that show a common voxel, no patch twice, in random order: (n,) and (n,)."""
    voxels = torch.cat([one[0], other[0]])
    _, inverse, times = torch.unique(voxels, return_inverse=True, return_counts=True)
    both = times[inverse] == 2
    cell_a, cell_b = one[1][both[: len(one[0])]], other[1][both[len(one[0]) :]]
    order = torch.randperm(len(cell_a), generator=rng)
    pairs = zip(cell_a[order].tolist(), cell_b[order].tolist(), strict=True)
    left: dict[int, int] = {}
    taken: set[int] = set()
    for a, b in pairs:
        if a not in left and b not in taken and len(left) < most:
            left[a] = b
            taken.add(b)
    return torch.tensor(list(left), dtype=torch.int64), torch.tensor(
        list(left.values()), dtype=torch.int64
    )


def _sample_depth(depth_m: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(1, len(y), len(x)) metres: nearest pixels, as between two depths there may be nothing; 0 beyond
    the border."""
    grid = sampling_grid(depth_m, x, y)
    return F.grid_sample(depth_m[None], grid, mode="nearest", align_corners=False)[0]
