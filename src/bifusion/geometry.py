"""Cameras and lifting: which voxel is seen in which view, at which pixel, and its image feature.

Frames, units and the pixel convention are those of CONVENTIONS.md: metres, z up, OpenCV cameras
(x right, y down, z forward), the centre of the top-left pixel is (0, 0), so that an image of width
W covers x in [-0.5, W - 0.5). Letters in shapes: M voxels, V views, P sightings (voxel-view pairs).

Everything runs in float32 even under autocast or in TF32: a pixel at x = 1200 is off by 4 in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.bounds import NotNegative
from bifusion.precision import full_float32
from bifusion.types import BatchView

NEAREST_DEPTH_M = 1e-3
Number = float | Tensor


Fetch = Callable[[Sequence[Tensor]], Sequence[int]]
"""() integers of a device to numbers of the host, which waits for it once."""


def fetch_together(figures: Sequence[Tensor]) -> Sequence[int]:
    return torch.stack(list(figures)).tolist()


@dataclass
class LiftingConfig:
    """When a voxel counts as not occluded: |z - depth map| <= absolute + relative * z."""

    depth_tolerance_m: NotNegative = 0.05
    """Noise of a near surface plus half a voxel."""
    depth_tolerance_relative: NotNegative = 0.02
    """Per metre of distance: depth noise and the slope of a slanted surface within one pixel grow."""


@dataclass
class Sightings:
    """Which voxel is seen in which view, and where; ordered by voxel, then by view."""

    voxel: Tensor
    """(P,) int64, 0 … M-1, not descending."""
    view: Tensor
    """(P,) int64, 0 … V-1."""
    pixel: Tensor
    """(P, 2) float32: x, y in pixels of the view's colour image."""
    count: Tensor
    """(M,) int64: views that see each voxel."""
    rows: Tensor | None = None
    """(K,) int64, ascending: the voxels that a view sees, where they are known."""

    @property
    def seen(self) -> Tensor:
        """(M,) bool: at least one view sees the voxel."""
        return self.count > 0

    @property
    def seen_rows(self) -> Tensor:
        """`rows`; found where they are not known, for which the host waits."""
        return torch.nonzero(self.seen)[:, 0] if self.rows is None else self.rows


def transform(points: Tensor, matrix: Tensor) -> Tensor:
    """(M, 3) points taken through a (4, 4) rigid transform such as `world2cam`."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def camera_position_m(world2cam: Tensor) -> Tensor:
    """(V, 3) places of cameras in the scene, of rigid (V, 4, 4) transforms: rotation transposed, -Rᵀt.

    Without matrix products, which autocast would run in half precision.
    """
    rotation, translation = world2cam[:, :3, :3], world2cam[:, :3, 3]
    return -(rotation * translation[:, :, None]).sum(1)


def project(position_m: Tensor, world2cam: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """World to camera to pixel, by the pinhole matrix `K` (3, 3) of that camera.

    Returns:
        pixel (M, 2): x, y in pixels; without meaning where depth is not positive.
        depth_m (M,): distance along the camera's z axis, negative behind the camera.
    """
    camera = transform(position_m, world2cam)
    depth_m = camera[:, 2]
    homogeneous = camera @ K.T
    return homogeneous[:, :2] / depth_m.clamp(min=NEAREST_DEPTH_M)[:, None], depth_m


def inside_image(pixel: Tensor, depth_m: Tensor, height: int, width: int) -> Tensor:
    """(M,) bool: in front of the camera and on a pixel of an image of that size."""
    x, y = pixel.unbind(1)
    on_pixel = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    return on_pixel & (depth_m > NEAREST_DEPTH_M)


def agrees_with_depth(
    position_m: Tensor, depth_map_m: Tensor, world2cam: Tensor, K: Tensor, config: LiftingConfig
) -> Tensor:
    """(M,) bool: the depth camera measured a surface at the voxel.

    `depth_map_m` (Hd, Wd), `world2cam` and `K` are the depth camera's own. A voxel in front of
    the measured surface disagrees as one behind it does (the pose or the map is wrong there), and
    so does one where nothing was measured or that the depth camera does not see.
    """
    height, width = depth_map_m.shape
    pixel, depth_m = project(position_m, world2cam, K)
    inside = inside_image(pixel, depth_m, height, width)
    x = (pixel[:, 0] + 0.5).floor().clamp(0, width - 1).long()
    y = (pixel[:, 1] + 0.5).floor().clamp(0, height - 1).long()
    measured_m = depth_map_m.reshape(-1).index_select(0, y * width + x)
    tolerance_m = config.depth_tolerance_m + config.depth_tolerance_relative * depth_m
    return inside & (measured_m > 0) & ((depth_m - measured_m).abs() <= tolerance_m)


def visible(position_m: Tensor, view: BatchView, config: LiftingConfig) -> tuple[Tensor, Tensor]:
    """Pixel of each voxel in the colour image and whether the view sees it.

    Returns:
        pixel (M, 2): x, y in pixels of `view.image`.
        valid (M,) bool: in front of the colour camera, inside its image, not occluded.
    """
    height, width = view.image.shape[-2:]
    pixel, depth_m = project(position_m, view.world2cam, view.K)
    unoccluded = agrees_with_depth(position_m, view.depth_m, view.depth_world2cam, view.depth_K, config)
    return pixel, inside_image(pixel, depth_m, height, width) & unoccluded


@torch.no_grad()
def find_sightings(
    position_m: Tensor,
    voxel_scene: Tensor,
    views: Sequence[BatchView],
    config: LiftingConfig,
    voxels_per_scene: Sequence[int] | None = None,
    fetch: Fetch = fetch_together,
) -> Sightings:
    """Every voxel-view pair in which a view of the voxel's own scene sees it.

    Args:
        position_m: (M, 3) mean original point of each voxel, scene frame, before augmentation.
        voxel_scene: (M,) integer scene index of each voxel.
        views: the batch's views; may be empty.
        voxels_per_scene: of scenes that lie in one run each, in order: then the host waits for a device
            once, else once more for each scene that has views.
        fetch: what waits; another one may bring other numbers along.
    """
    device = position_m.device
    of_scene = _rows_of_scenes(voxel_scene, {view.scene for view in views}, voxels_per_scene)
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    voxels, numbers, pixels, valids = [nothing], [nothing], [torch.zeros(0, 2, device=device)], []
    count = torch.zeros(len(position_m), dtype=torch.int64, device=device)
    with full_float32(device):
        for number, view in enumerate(views):
            rows = of_scene[view.scene]
            pixel, valid = visible(position_m.index_select(0, rows).float(), view, config)
            count.index_add_(0, rows, valid.long())
            voxels.append(rows)
            numbers.append(torch.full_like(rows, number))
            pixels.append(pixel)
            valids.append(valid)
    if not views:
        return Sightings(nothing, nothing, pixels[0], count, nothing)
    hits, seen = _true_rows([torch.cat(valids), count > 0], fetch)
    voxel, order = torch.sort(torch.cat(voxels).index_select(0, hits), stable=True)
    hits = hits.index_select(0, order)
    view_number = torch.cat(numbers).index_select(0, hits)
    return Sightings(voxel, view_number, torch.cat(pixels).index_select(0, hits), count, seen)


def _true_rows(masks: list[Tensor], fetch: Fetch) -> list[Tensor]:
    """int64 rows in which each (N,) mask is true, ascending."""
    pairs = zip(masks, fetch([mask.sum() for mask in masks]), strict=True)
    return [torch.nonzero_static(mask, size=count)[:, 0] for mask, count in pairs]


def _rows_of_scenes(
    voxel_scene: Tensor, scenes: set[int], voxels_per_scene: Sequence[int] | None
) -> dict[int, Tensor]:
    """(M_b,) int64 rows of the voxels of each of `scenes`."""
    if voxels_per_scene is None:
        return {b: torch.nonzero(voxel_scene == b)[:, 0] for b in scenes}
    first = [0, *accumulate(voxels_per_scene)]
    return {b: torch.arange(first[b], first[b + 1], device=voxel_scene.device) for b in scenes}


def bilinear_cells(
    pixel: Tensor, image_size: tuple[Number, Number], grid_size: tuple[Number, Number]
) -> tuple[Tensor, Tensor]:
    """The four cells of a feature grid around each pixel, and their bilinear weights.

    The grid (h, w) covers the whole image (H, W), so pixel x lies at cell (x + 0.5)·w/W - 0.5: the
    same as `grid_sample` at (2x + 1)/W - 1 with align_corners=False and border padding. Pixels of
    the image outside the outermost cell centres take the nearest cell's value (they clamp). Sizes are
    numbers, or (P,) float64 where they differ from pixel to pixel.

    Returns:
        cell (P, 4) int64: row · w + column.
        weight (P, 4) float32, rows sum to 1.
    """
    (height, width), (rows, columns) = image_size, grid_size
    x = _clamped((pixel[:, 0] + 0.5) * _single(columns / width) - 0.5, _single(columns - 1))
    y = _clamped((pixel[:, 1] + 0.5) * _single(rows / height) - 0.5, _single(rows - 1))
    left, top = x.floor(), y.floor()
    right = _clamped(left + 1, _single(columns - 1))
    bottom = _clamped(top + 1, _single(rows - 1))
    to_right, to_bottom = x - left, y - top
    row = torch.stack([top, top, bottom, bottom], dim=1)
    column = torch.stack([left, right, left, right], dim=1)
    weight_x = torch.stack([1 - to_right, to_right], dim=1).repeat(1, 2)
    weight_y = torch.stack([1 - to_bottom, to_bottom], dim=1).repeat_interleave(2, dim=1)
    stride = columns[:, None] if isinstance(columns, Tensor) else columns
    return (row * _single(stride) + column).long(), weight_x * weight_y


def _single(number: Number) -> Number:
    """As a product with float32 takes it."""
    return number.float() if isinstance(number, Tensor) else number


def _clamped(values: Tensor, largest: Number) -> Tensor:
    return values.clamp(min=0).clamp(max=largest)


def lift_features(
    feature_maps: Sequence[Tensor],
    views: Sequence[BatchView],
    sightings: Sightings,
    voxels: Tensor | None = None,
) -> Tensor:
    """Image feature of each voxel: sampled bilinearly in the views that see it, then averaged.

    One weighted `embedding_bag` over the cells of all maps: no (P, D) intermediate is ever made,
    only seen voxels are sampled, and its backward is repeatable (`grid_sample`'s is not on CUDA).

    Args:
        feature_maps: V maps (h, w, D), each covering its view's whole image.
        voxels: (K,) int64, ascending: those wanted, among them all that are seen; None: all.

    Returns:
        (M, D), of `voxels` (K, D), float32, zero where no view sees the voxel.
    """
    count = sightings.count
    dim = feature_maps[0].shape[-1]
    table = torch.cat([feature_map.reshape(-1, dim) for feature_map in feature_maps]).float()
    grids = [feature_map.shape[:2] for feature_map in feature_maps]
    first = [0, *accumulate(rows * columns for rows, columns in grids)]
    sizes = [(*view.image.shape[-2:], *grid) for view, grid in zip(views, grids, strict=True)]
    of_view = torch.tensor([(*s, f) for s, f in zip(sizes, first, strict=False)], dtype=torch.float64)
    of_view = of_view.to(table.device, non_blocking=True)
    height, width, rows, columns, first_cell = of_view.index_select(0, sightings.view).unbind(1)
    cell, weight = bilinear_cells(sightings.pixel, (height, width), (rows, columns))
    cell = cell + first_cell.long()[:, None]
    weight = weight / count.index_select(0, sightings.voxel)[:, None]
    offsets = 4 * (count.cumsum(0) - count)
    offsets = offsets if voxels is None else offsets.index_select(0, voxels)
    return F.embedding_bag(
        cell.reshape(-1), table, offsets, mode="sum", per_sample_weights=weight.reshape(-1)
    )


def mean_over_views(values: Tensor, sightings: Sightings) -> Tensor:
    """(V, k) values of views, averaged over the views that see each voxel: (M, k), 0 where none."""
    return mean_of_sightings(values.index_select(0, sightings.view), sightings)


def mean_of_sightings(values: Tensor, sightings: Sightings) -> Tensor:
    """(P, k) values of sightings, averaged over those of each voxel: (M, k), 0 where there is none."""
    summed = values.new_zeros(len(sightings.count), values.shape[1])
    summed.index_add_(0, sightings.voxel, values)
    return summed / sightings.count.clamp(min=1)[:, None]


def distance_to_cameras(position_m: Tensor, views: Sequence[BatchView], sightings: Sightings) -> Tensor:
    """(M,) metres from each voxel (M, 3) to the colour cameras of the views that see it, their mean; 0
    where none does."""
    if not views:
        return position_m.new_zeros(len(position_m))
    world2cam = torch.stack([view.world2cam for view in views]).to(position_m)
    of_voxel = position_m.index_select(0, sightings.voxel)
    camera_m = camera_position_m(world2cam)
    apart_m = (of_voxel - camera_m.index_select(0, sightings.view)).norm(dim=1)
    return mean_of_sightings(apart_m[:, None], sightings)[:, 0]
