"""64 numbers that say where a voxel lies in its scene and from where it was seen; input of FiLM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bifusion.geometry import Sightings, camera_position_m, mean_over_views
from bifusion.types import Batch

CODE_CHANNELS = 64
LENGTH_UNIT_M = 4.0
"""Lengths enter as multiples of 4 m, so that a room's coordinates lie in about [-1, 1]."""
WAVELENGTHS_M = tuple(0.25 * 2.0**k for k in range(8))
"""Wavelengths of the Fourier code: 0.25, 0.5, … 32 m, from a piece of furniture to a flat."""


def geometric_code(batch: Batch, sightings: Sightings) -> Tensor:
    """(M, 64) float32, about in [-2, 2]; scene frame before augmentation, lengths in units of 4 m.

    position (3) and camera position (3) relative to the centre of the scene's bounds; Fourier code
    of that position, sin and cos for each of 8 wavelengths and 3 axes (48); scene size (3); first
    two columns of the camera-to-scene rotation (6; Zhou et al., "On the Continuity of Rotation
    Representations in Neural Networks", CVPR 2019); height above the floor, the scene's lowest
    point (1). Camera position and rotation are averaged over the views that see the voxel and
    zero where none does.
    """
    scene = batch.voxel_coords[:, 0].long()
    lowest, highest = batch.scene_bounds_m.unbind(1)
    centre = (lowest + highest) / 2
    position_m = batch.voxel_position_m - centre.index_select(0, scene)
    height_m = batch.voxel_position_m[:, 2:] - lowest[:, 2:].index_select(0, scene)
    size_m = (highest - lowest).index_select(0, scene)
    lengths = torch.cat([position_m, size_m, height_m], dim=1) / LENGTH_UNIT_M
    return torch.cat([lengths, _fourier(position_m), _mean_pose(batch, sightings, centre)], dim=1)


def _fourier(position_m: Tensor) -> Tensor:
    """(M, 3) metres to (M, 48): sin, then cos, of every wavelength and axis."""
    frequencies = torch.tensor([2 * math.pi / length for length in WAVELENGTHS_M])
    frequencies = frequencies.to(position_m, non_blocking=True)
    phase = (position_m[:, :, None] * frequencies).flatten(1)
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def _mean_pose(batch: Batch, sightings: Sightings, centre: Tensor) -> Tensor:
    """(M, 9): position (units of 4 m from the scene's centre) and two rotation columns."""
    if not batch.views:
        return centre.new_zeros(len(sightings.count), 9)
    world2cam = torch.stack([view.world2cam for view in batch.views])
    camera_m = camera_position_m(world2cam)
    scene = torch.tensor([view.scene for view in batch.views]).to(centre.device, non_blocking=True)
    camera = (camera_m - centre.index_select(0, scene)) / LENGTH_UNIT_M
    columns = world2cam[:, :2, :3].flatten(1)  # of cam2world, whose rotation is transposed
    return mean_over_views(torch.cat([camera, columns], dim=1), sightings)
