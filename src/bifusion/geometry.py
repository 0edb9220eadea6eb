"""Cameras and lifting: which voxel is seen in which view, at which pixel, and its image feature.

Frames, units and the pixel convention are those of CONVENTIONS.md: metres, z up, OpenCV cameras
(x right, y down, z forward), the centre of the top-left pixel is (0, 0), so that an image of width
W covers x in [-0.5, W - 0.5). Letters in shapes: M voxels, V views, P sightings (voxel-view pairs).

Everything runs in float32 even under autocast: a pixel at x = 1200 is off by 4 in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bifusion.bounds import NotNegative
from bifusion.types import BatchView

NEAREST_DEPTH_M = 1e-3


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

    @property
    def seen(self) -> Tensor:
        """(M,) bool: at least one view sees the voxel."""
        return self.count > 0


def transform(points: Tensor, matrix: Tensor) -> Tensor:
    """(M, 3) points taken through a (4, 4) rigid transform such as `world2cam`."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


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
    position_m: Tensor, voxel_scene: Tensor, views: Sequence[BatchView], config: LiftingConfig
) -> Sightings:
    """Every voxel-view pair in which a view of the voxel's own scene sees it.

    Args:
        position_m: (M, 3) mean original point of each voxel, scene frame, before augmentation.
        voxel_scene: (M,) integer scene index of each voxel.
        views: the batch's views; may be empty.
    """
    device = position_m.device
    voxels, numbers, pixels = [], [], []
    with torch.autocast(device.type, enabled=False):
        for number, view in enumerate(views):
            of_scene = torch.nonzero(voxel_scene == view.scene)[:, 0]
            pixel, valid = visible(position_m.index_select(0, of_scene).float(), view, config)
            voxels.append(of_scene[valid])
            pixels.append(pixel[valid])
            numbers.append(torch.full_like(voxels[-1], number))
    voxel = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *voxels])
    view_number = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *numbers])
    pixel = torch.cat([torch.zeros(0, 2, device=device), *pixels])
    voxel, order = torch.sort(voxel, stable=True)
    count = torch.zeros(len(position_m), dtype=torch.int64, device=device)
    count.index_add_(0, voxel, torch.ones_like(voxel))
    return Sightings(voxel, view_number.index_select(0, order), pixel.index_select(0, order), count)


def bilinear_cells(
    pixel: Tensor, image_size: tuple[int, int], grid_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The four cells of a feature grid around each pixel, and their bilinear weights.

    The grid (h, w) covers the whole image (H, W), so pixel x lies at cell (x + 0.5)·w/W - 0.5: the
    same as `grid_sample` at (2x + 1)/W - 1 with align_corners=False and border padding. Pixels of
    the image outside the outermost cell centres take the nearest cell's value (they clamp).

    Returns:
        cell (P, 4) int64: row · w + column.
        weight (P, 4) float32, rows sum to 1.
    """
    (height, width), (rows, columns) = image_size, grid_size
    x = ((pixel[:, 0] + 0.5) * (columns / width) - 0.5).clamp(0, columns - 1)
    y = ((pixel[:, 1] + 0.5) * (rows / height) - 0.5).clamp(0, rows - 1)
    left, top = x.floor(), y.floor()
    right, bottom = (left + 1).clamp(max=columns - 1), (top + 1).clamp(max=rows - 1)
    to_right, to_bottom = x - left, y - top
    row = torch.stack([top, top, bottom, bottom], dim=1)
    column = torch.stack([left, right, left, right], dim=1)
    weight_x = torch.stack([1 - to_right, to_right], dim=1).repeat(1, 2)
    weight_y = torch.stack([1 - to_bottom, to_bottom], dim=1).repeat_interleave(2, dim=1)
    return (row * columns + column).long(), weight_x * weight_y


def lift_features(
    feature_maps: Sequence[Tensor], views: Sequence[BatchView], sightings: Sightings
) -> Tensor:
    """Image feature of each voxel: sampled bilinearly in the views that see it, then averaged.

    One weighted `embedding_bag` over the cells of all maps: no (P, D) intermediate is ever made,
    only seen voxels are sampled, and its backward is repeatable (`grid_sample`'s is not on CUDA).

    Args:
        feature_maps: V maps (h, w, D), each covering its view's whole image.

    Returns:
        (M, D) float32, zero where no view sees the voxel.
    """
    count = sightings.count
    dim = feature_maps[0].shape[-1]
    table = torch.cat([feature_map.reshape(-1, dim) for feature_map in feature_maps]).float()
    cell = torch.zeros(len(sightings.voxel), 4, dtype=torch.int64, device=table.device)
    weight = torch.zeros(len(sightings.voxel), 4, device=table.device)
    first_cell = 0
    for number, (feature_map, view) in enumerate(zip(feature_maps, views, strict=True)):
        rows, columns = feature_map.shape[:2]
        mine = torch.nonzero(sightings.view == number)[:, 0]
        height, width = view.image.shape[-2:]
        pixel = sightings.pixel.index_select(0, mine)
        cells, weights = bilinear_cells(pixel, (height, width), (rows, columns))
        cell.index_copy_(0, mine, cells + first_cell)
        weight.index_copy_(0, mine, weights)
        first_cell += rows * columns
    weight = weight / count.index_select(0, sightings.voxel)[:, None]
    offsets = 4 * (count.cumsum(0) - count)
    return F.embedding_bag(
        cell.reshape(-1), table, offsets, mode="sum", per_sample_weights=weight.reshape(-1)
    )


def mean_over_views(values: Tensor, sightings: Sightings) -> Tensor:
    """(V, k) values of views, averaged over the views that see each voxel: (M, k), 0 where none."""
    summed = values.new_zeros(len(sightings.count), values.shape[1])
    summed.index_add_(0, sightings.voxel, values.index_select(0, sightings.view))
    return summed / sightings.count.clamp(min=1)[:, None]
