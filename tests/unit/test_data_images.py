"""Views at the encoder's size: intrinsics, resampled and warped depth against traced geometry."""

import numpy as np
import pytest

from bifusion.data.images import (
    encoder_size,
    encoder_view,
    reduce_depth,
    resample_depth,
    resize_intrinsics,
)
from bifusion.errors import InputError
from scene_factory import make_view, trace


def view(*, offset_m=0.0, color_size=(160, 120), depth_size=(200, 150)):
    return make_view(1, np.random.default_rng(0), color_size, depth_size, offset_m)


@pytest.mark.parametrize(
    ("size", "long_side", "patch", "expected"),
    [
        ((1296, 968), 320, 16, (320, 240)),
        ((640, 480), 224, 16, (224, 176)),
        ((480, 640), 320, 16, (240, 320)),
        ((1000, 10), 64, 16, (64, 16)),
        ((64, 64), 64, 16, (64, 64)),
    ],
)
def test_encoder_size(size, long_side, patch, expected):
    assert encoder_size(size, long_side, patch) == expected


def test_image_smaller_than_a_patch_is_refused():
    with pytest.raises(InputError, match="image_size is 8; expected at least one patch of 16"):
        encoder_size((64, 48), 8, 16)


def test_intrinsics_follow_the_half_pixel_rule_separately_in_x_and_y():
    K = np.array([[100.0, 0, 70.0], [0, 110, 40], [0, 0, 1]])
    resized = resize_intrinsics(K, (160, 120), (80, 90))
    point = np.array([0.3, -0.2, 1.7])
    x, y, _ = K @ point / point[2]
    assert np.allclose((resized @ point / point[2])[:2], [(x + 0.5) * 0.5 - 0.5, (y + 0.5) * 0.75 - 0.5])


def test_resized_image_and_intrinsics_agree():
    """An image whose red is its own x and green its own y: a ray keeps its colour."""
    original = view()
    x, y = np.meshgrid(np.arange(160), np.arange(120))
    original.color = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
    small = encoder_view(original, 96, 16, 640)
    assert small.image.shape == (80, 96, 3)
    rays = np.linalg.inv(small.K) @ np.array([[48.0, 20, 70], [40, 30, 60], [1, 1, 1]])
    before = (original.color_K @ rays)[:2]
    after = small.image[[40, 30, 60], [48, 20, 70], :2].T
    assert np.abs(before - after).max() < 1.0


@pytest.mark.parametrize("offset_m", [0.0, 0.06])
@pytest.mark.parametrize("depth_size", [(200, 150), (80, 60)])
def test_depth_at_the_image_pixels_is_what_the_colour_camera_sees(offset_m, depth_size):
    original = view(offset_m=offset_m, depth_size=depth_size)
    small = encoder_view(original, 96, 16, 640)
    _, expected = trace(original.color_cam2world, small.K.astype(float), (96, 80))
    both = (small.image_depth_m > 0) & (expected > 0)
    assert both.sum() > 0.85 * (expected > 0).sum()
    error = np.abs(small.image_depth_m - expected)[both]
    pixel_m = 1.5 / original.depth_K[0, 0]  # what a depth pixel covers at the room's depth
    assert np.median(error) < pixel_m
    assert np.mean(error < 4 * pixel_m) > 0.9


def test_ignoring_the_cameras_offset_would_be_noticed():
    """The test above can fail: depth taken as if both cameras were in one place is worse."""
    original = view(offset_m=0.25)
    warped = encoder_view(original, 96, 16, 640)
    _, expected = trace(original.color_cam2world, warped.K.astype(float), (96, 80))
    naive = resample_depth(original.depth_m, original.depth_K, warped.K, (96, 80))
    both = (warped.image_depth_m > 0) & (expected > 0) & (naive > 0)
    errors = [np.abs(depth - expected)[both].mean() for depth in (warped.image_depth_m, naive)]
    assert errors[0] < 0.5 * errors[1]


def test_nearer_surfaces_hide_farther_ones_when_warped():
    original = view(offset_m=0.1)
    original.depth_m = np.full_like(original.depth_m, 3.0)
    original.depth_m[:, 80:120] = 1.0
    warped = encoder_view(original, 96, 16, 640).image_depth_m
    moved = np.linalg.inv(original.color_cam2world) @ original.depth_cam2world
    assert np.isclose(moved[0, 3], 0.1)
    assert set(np.unique(warped)) == {0.0, 1.0, 3.0}  # nothing between: no averaging across the border


def test_outside_the_depth_image_nothing_is_measured():
    original = view()
    wide = original.color_K * [[0.5], [0.5], [1]] + [[0, 0, 40], [0, 0, 30], [0, 0, 0]]
    depth = resample_depth(original.depth_m, original.depth_K, wide, (160, 120))
    assert (depth[:, :30] == 0).all() and (depth[40:80, 60:100] > 0).any()


def test_reduced_depth_keeps_its_geometry_and_small_depth_its_size():
    original = view()
    depth, K = reduce_depth(original.depth_m, original.depth_K, 100)
    assert depth.shape == (75, 100)
    _, expected = trace(original.depth_cam2world, K, (100, 75))
    assert np.median(np.abs(depth - expected)[expected > 0]) < 0.01
    same, same_K = reduce_depth(original.depth_m, original.depth_K, 640)
    assert same is original.depth_m and np.array_equal(same_K, original.depth_K)


def test_batch_view_types_and_ranges():
    batch_view = encoder_view(view(), 96, 16, 640).to_batch_view(3)
    assert batch_view.scene == 3 and batch_view.image.shape == (3, 80, 96)
    assert batch_view.image.min() >= 0 and batch_view.image.max() <= 1
    assert (
        batch_view.image_depth_m.shape == (1, 80, 96)
        and batch_view.world2cam.dtype == batch_view.K.dtype
    )
