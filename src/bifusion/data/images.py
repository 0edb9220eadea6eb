"""Views brought to the image encoder's size: colour, the depth its camera sees, and intrinsics.

Pixels follow CONVENTIONS.md: centres at whole numbers, so resizing by s maps x to (x + 0.5)·s − 0.5
and the intrinsics with it, separately along x and y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from bifusion.errors import InputError
from bifusion.types import BatchView, DisagreeingView, View

SAME_POSE_TOLERANCE = 1e-6
SAME_ASPECT = 0.02
"""Largest difference of two images' aspects of which one is the other resized."""


@dataclass
class EncoderView:
    """A view resized for the encoder, in numpy: what the cache keeps and workers send."""

    name: str
    image: np.ndarray
    """(H, W, 3) uint8 RGB; H and W are multiples of the patch size."""
    image_depth_m: np.ndarray
    """(H, W) float32: depth seen by the colour camera at the image's pixels, 0 none."""
    K: np.ndarray
    """(3, 3) float32, pixels of `image`."""
    world2cam: np.ndarray
    """(4, 4) float32, scene frame to colour camera."""
    depth_m: np.ndarray
    """(Hd, Wd) float32 depth map of the depth camera, 0 none."""
    depth_K: np.ndarray
    """(3, 3) float32, pixels of `depth_m`."""
    depth_world2cam: np.ndarray
    """(4, 4) float32."""
    disagreement: DisagreeingView | None = None
    """What contradicts the scene's geometry (`view_agreement.py`)."""

    def to_batch_view(self, scene: int) -> BatchView:
        """As tensors, of scene number `scene` of a batch; colours become float32 in [0, 1]."""
        image = torch.from_numpy(np.ascontiguousarray(self.image.transpose(2, 0, 1))).float() / 255
        return BatchView(
            scene=scene,
            name=self.name,
            image=image,
            image_depth_m=torch.from_numpy(self.image_depth_m)[None],
            K=torch.from_numpy(self.K),
            world2cam=torch.from_numpy(self.world2cam),
            depth_m=torch.from_numpy(self.depth_m),
            depth_K=torch.from_numpy(self.depth_K),
            depth_world2cam=torch.from_numpy(self.depth_world2cam),
            disagreement=self.disagreement,
        )

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.image_depth_m.nbytes + self.depth_m.nbytes


def encoder_size(size: tuple[int, int], long_side: int, patch_size: int) -> tuple[int, int]:
    """(width, height) for an image of `size`: the long side near `long_side`, the aspect ratio kept
    up to rounding both sides to multiples of `patch_size`."""
    if long_side < patch_size:
        raise InputError(
            f"image_size is {long_side}; expected at least one patch of {patch_size} pixels"
        )
    scale = long_side / max(size)
    width, height = (max(1, math.floor(side * scale / patch_size + 0.5)) * patch_size for side in size)
    return width, height


def is_resized(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether an image of one size (width, height) can be one of the other, resized to whole pixels."""
    across, down = size[0] * other[1], size[1] * other[0]
    return abs(across - down) <= SAME_ASPECT * down


def resize_intrinsics(K: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """`K` of an image of `size` (width, height) after resizing it to `new_size`; (3, 3) float64."""
    scaled = np.array(K, dtype=np.float64)
    for axis in (0, 1):
        scale = new_size[axis] / size[axis]
        scaled[axis, axis] *= scale
        scaled[axis, 2] = (scaled[axis, 2] + 0.5) * scale - 0.5
    return scaled


def encoder_view(view: View, image_size: int, patch_size: int, depth_size: int) -> EncoderView:
    """`view` at the encoder's size.

    Args:
        view: a checked view (`load_view`).
        image_size: long side of the result in pixels.
        patch_size: both sides become multiples of it.
        depth_size: longest side of the depth map kept for the occlusion test; a larger one is
            reduced by taking nearest pixels (averaging would invent depths at object borders).
    """
    size = (view.color.shape[1], view.color.shape[0])
    new_size = encoder_size(size, image_size, patch_size)
    K = resize_intrinsics(view.color_K, size, new_size)
    image = view.color
    if new_size != size:
        image = np.array(Image.fromarray(image).resize(new_size, Image.Resampling.BICUBIC))
    if np.abs(view.color_cam2world - view.depth_cam2world).max() < SAME_POSE_TOLERANCE:
        image_depth_m = resample_depth(view.depth_m, view.depth_K, K, new_size)
    else:
        depth_to_color = np.linalg.inv(view.color_cam2world) @ view.depth_cam2world
        image_depth_m = warp_depth(view.depth_m, view.depth_K, depth_to_color, K, new_size)
    depth_m, depth_K = reduce_depth(view.depth_m, view.depth_K, depth_size)
    return EncoderView(
        name=view.name,
        image=image,
        image_depth_m=image_depth_m,
        K=K.astype(np.float32),
        world2cam=np.linalg.inv(view.color_cam2world).astype(np.float32),
        depth_m=depth_m,
        depth_K=depth_K.astype(np.float32),
        depth_world2cam=np.linalg.inv(view.depth_cam2world).astype(np.float32),
    )


def reduce_depth(depth_m: np.ndarray, K: np.ndarray, long_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth map and its intrinsics with the longest side at most `long_side`, nearest pixels."""
    height, width = depth_m.shape
    scale = long_side / max(width, height)
    if scale >= 1:
        return depth_m, np.asarray(K, dtype=np.float64)
    new_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    new_K = resize_intrinsics(K, (width, height), new_size)
    return resample_depth(depth_m, K, new_K, new_size), new_K


def resample_depth(
    depth_m: np.ndarray, depth_K: np.ndarray, K: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Depth at the pixels of another camera of the same pose: (H, W) float32, 0 outside or unmeasured.

    Each pixel of the new camera (`K`, `size` = width, height) takes the nearest depth pixel on its
    ray; rows and columns separate because neither camera has skew.
    """
    sampled = []
    for axis, (length, limit) in enumerate(zip(size, depth_m.shape[::-1], strict=True)):
        ray = (np.arange(length) - K[axis, 2]) / K[axis, axis]
        pixel = np.floor(ray * depth_K[axis, axis] + depth_K[axis, 2] + 0.5).astype(np.int64)
        sampled.append((np.clip(pixel, 0, limit - 1), (pixel >= 0) & (pixel < limit)))
    (columns, column_inside), (rows, row_inside) = sampled
    inside = row_inside[:, None] & column_inside[None]
    return np.where(inside, depth_m[rows[:, None], columns[None]], np.float32(0))


def warp_depth(
    depth_m: np.ndarray,
    depth_K: np.ndarray,
    depth_to_color: np.ndarray,
    K: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """Depth seen by a camera in another place: points of the depth map, z-buffered; (H, W) float32.

    Points are splatted one pixel each, so the buffer is kept no finer than the depth map (else
    holes) and then brought to `size` by nearest pixels. 0 where no point falls.
    """
    fineness = max(K[0, 0] / depth_K[0, 0], K[1, 1] / depth_K[1, 1], 1.0) * math.sqrt(2)
    buffer_size = (max(1, round(size[0] / fineness)), max(1, round(size[1] / fineness)))
    buffer_K = resize_intrinsics(K, size, buffer_size)
    rows, columns = np.nonzero(depth_m > 0)
    z = depth_m[rows, columns].astype(np.float64)
    x = (columns - depth_K[0, 2]) / depth_K[0, 0] * z
    y = (rows - depth_K[1, 2]) / depth_K[1, 1] * z
    points = np.stack([x, y, z], axis=1) @ depth_to_color[:3, :3].T + depth_to_color[:3, 3]
    points = points[points[:, 2] > 1e-3]
    pixels = np.floor(points[:, :2] / points[:, 2:] * buffer_K[[0, 1], [0, 1]] + buffer_K[:2, 2] + 0.5)
    inside = ((pixels >= 0) & (pixels < buffer_size)).all(axis=1)
    column, row = pixels[inside].astype(np.int64).T
    nearest = np.full(buffer_size[0] * buffer_size[1], np.inf)
    np.minimum.at(nearest, row * buffer_size[0] + column, points[inside, 2])
    buffer = np.where(np.isfinite(nearest), nearest, 0).astype(np.float32).reshape(buffer_size[::-1])
    return resample_depth(buffer, buffer_K, K, size)
