"""Augmentation: every voxel keeps its pixels; each piece does what it says, from its own stream."""

import dataclasses
import math

import numpy as np
import pytest

from bifusion.data.dataset import DataConfig, SceneDataset
from bifusion.data.transforms import (
    AugmentConfig,
    SceneStream,
    augment_coord,
    choose_views,
    elastic_distortion,
    jitter_color,
    subvoxel_shift_m,
)
from bifusion.errors import InputError
from scene_factory import make_tiny_scene

STILL = AugmentConfig(
    flip_probability=0, rotation_rad=0, scale=(1, 1), translation_std_m=0, subvoxel_shift=False,
    elastic_probability=0, color_gain_std=0, color_offset_std=0, color_noise_std=0,
    no_views_probability=0, fewer_views_probability=0,
)  # fmt: skip

PIECES = {
    "flip": {"flip_probability": 1.0},
    "rotation": {"rotation_rad": math.pi},
    "scale": {"scale": (0.8, 0.9)},
    "translation": {"translation_std_m": 0.5},
    "subvoxel": {"subvoxel_shift": True},
    "elastic": {"elastic_probability": 1.0},
    "color": {"color_gain_std": 0.1, "color_offset_std": 0.1, "color_noise_std": 0.1},
    "views": {"fewer_views_probability": 1.0},
}
PIECES["all"] = {field: value for piece in PIECES.values() for field, value in piece.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_tiny_scene(folder / "train" / "room", num_views=3)
    return folder


def stream(epoch=0):
    return SceneStream(0, epoch, "room")


def points(count=500):
    return np.random.default_rng(0).uniform(-1, 2, (count, 3)).astype(np.float32)


def pixels_of_points(sample):
    """(views, N, 2) pixel of every point, by way of its voxel."""
    position = sample.voxel_position_m[sample.point_to_voxel].astype(np.float64)
    result = {}
    for view in sample.views:
        camera = position @ view.world2cam[:3, :3].T + view.world2cam[:3, 3]
        homogeneous = camera @ view.K.T
        result[view.name] = homogeneous[:, :2] / homogeneous[:, 2:]
    return result


@pytest.mark.parametrize("piece", PIECES)
def test_every_point_keeps_its_pixels(root, piece):
    """1 mm voxels hold one point each, so that pixels can be compared point by point."""
    config = DataConfig(root=root, voxel_size_m=0.001, max_views=3, image_size=64)
    plain = SceneDataset(config, "train", seed=0, training=False).sample(0, epoch=1)
    augment = dataclasses.replace(STILL, **PIECES[piece])
    moved_data = SceneDataset(
        dataclasses.replace(config, augment=augment), "train", seed=0, training=True
    )
    moved = moved_data.sample(0, epoch=1)
    assert len(plain.voxel_coords) == len(plain.point_to_voxel)
    before, after = pixels_of_points(plain), pixels_of_points(moved)
    assert after
    for name in after:
        np.testing.assert_allclose(after[name], before[name], atol=1e-3)
    for view in moved.views:
        original = next(v for v in plain.views if v.name == view.name)
        assert np.array_equal(view.image, original.image) and np.array_equal(view.K, original.K)
    if piece not in ("color", "views", "translation"):
        assert not np.array_equal(moved.voxel_coords, plain.voxel_coords), "the piece did nothing"


@pytest.mark.parametrize("piece", PIECES)
def test_voxel_positions_are_means_of_the_original_points(root, piece):
    augment = dataclasses.replace(STILL, **PIECES[piece])
    config = DataConfig(root=root, voxel_size_m=0.3, augment=augment)
    sample = SceneDataset(config, "train", seed=0, training=True).sample(0, epoch=2)
    coord = np.load(root / "train" / "room" / "coord.npy")
    counts = np.bincount(sample.point_to_voxel)
    for axis in range(3):
        mean = np.bincount(sample.point_to_voxel, coord[:, axis]) / counts
        np.testing.assert_allclose(sample.voxel_position_m[:, axis], mean, atol=1e-5)


def test_still_configuration_changes_nothing():
    coord = points()
    assert np.allclose(augment_coord(coord, STILL, stream()), coord, atol=1e-6)
    assert elastic_distortion(coord, STILL, stream()) is coord
    assert np.array_equal(
        jitter_color(np.full((5, 3), 77, np.uint8), STILL, stream()), np.full((5, 3), 77)
    )
    assert not subvoxel_shift_m(STILL, 0.1, stream()).any()


def test_flip_mirrors_x_and_y_only():
    flipped = augment_coord(points(), dataclasses.replace(STILL, flip_probability=1), stream())
    assert np.allclose(flipped, points() * [-1, -1, 1])


def test_rotation_is_rigid_about_z():
    config = dataclasses.replace(STILL, rotation_rad=math.pi)
    rotated = augment_coord(points(), config, stream())
    assert np.allclose(rotated[:, 2], points()[:, 2], atol=1e-6)
    assert np.allclose(np.linalg.norm(rotated, axis=1), np.linalg.norm(points(), axis=1), atol=1e-5)
    assert not np.allclose(rotated, points(), atol=0.01)


def test_scale_stays_in_its_range_and_differs_between_epochs():
    config = dataclasses.replace(STILL, scale=(0.5, 2.0))
    factors = [augment_coord(points(), config, stream(e))[0, 0] / points()[0, 0] for e in range(20)]
    assert 0.5 <= min(factors) < 0.9 and 1.1 < max(factors) <= 2.0


def test_elastic_distortion_is_smooth_and_of_the_stated_size():
    config = dataclasses.replace(STILL, elastic_probability=1.0, elastic_m=((0.4, 3.2),))
    coord = np.random.default_rng(0).uniform(0, 5, (4000, 3)).astype(np.float32)
    displacement = elastic_distortion(coord, config, stream()) - coord
    assert 0.05 * 3.2 < displacement.std() < 0.15 * 3.2
    step = np.float32([0.01, 0, 0])
    # Knots lie where the scene begins and ends; two points fix them for the shifted copy as well.
    corners = np.float32([[-1, -1, -1], [6, 6, 6]])
    here = elastic_distortion(np.concatenate([corners, coord]), config, stream())[2:] - coord
    there = (
        elastic_distortion(np.concatenate([corners, coord + step]), config, stream())[2:] - coord - step
    )
    assert np.abs(there - here).max() < 0.05


def test_points_too_far_apart_for_a_grid_of_noise_are_told_before_it_is_made():
    config = dataclasses.replace(STILL, elastic_probability=1.0, elastic_m=((0.12, 0.8),))
    coord = np.array([[0, 0, 0], [3, 3, 3], [300, 200, 250]], np.float32)
    told = (
        r"found points over 300 × 200 × 250 m, too many knots \(1,\d+,\d+,\d+, .* of 0.12 m; take stray"
    )
    with pytest.raises(InputError, match=told):
        elastic_distortion(coord, config, stream())


def test_the_scene_whose_points_are_too_far_apart_is_named(root, monkeypatch):
    monkeypatch.setattr("bifusion.data.transforms.MOST_KNOTS", 100)
    augment = dataclasses.replace(STILL, elastic_probability=1.0)
    with pytest.raises(InputError, match="^room: coord: found points over"):
        SceneDataset(DataConfig(root=root, augment=augment), "train", seed=0, training=True).sample(
            0, epoch=0
        )


def test_single_point_and_flat_scenes_survive_elastic_distortion():
    config = dataclasses.replace(STILL, elastic_probability=1.0)
    for coord in (np.zeros((1, 3), np.float32), points() * np.float32([1, 1, 0])):
        assert np.isfinite(elastic_distortion(coord, config, stream())).all()


def test_jittered_colors_stay_in_range():
    config = dataclasses.replace(STILL, color_gain_std=1, color_offset_std=1, color_noise_std=0.5)
    jittered = jitter_color(np.full((1000, 3), 128, np.uint8), config, stream())
    assert jittered.min() >= 0 and jittered.max() <= 255 and jittered.std() > 10


def test_pieces_draw_from_streams_of_their_own():
    rotate = dataclasses.replace(STILL, rotation_rad=math.pi)
    both = dataclasses.replace(rotate, scale=(0.5, 0.6), flip_probability=0)
    alone, together = (augment_coord(points(), config, stream()) for config in (rotate, both))
    ratio = together / alone
    assert np.allclose(ratio, ratio[0, 0], rtol=1e-4)


def test_same_names_give_the_same_augmentation_and_others_do_not():
    config = AugmentConfig()
    assert np.array_equal(
        augment_coord(points(), config, stream()), augment_coord(points(), config, stream())
    )
    assert not np.array_equal(
        augment_coord(points(), config, stream(0)), augment_coord(points(), config, stream(1))
    )


def test_views_are_spread_evenly_without_augmentation():
    names = [str(i) for i in range(10)]
    assert choose_views(names, 2, None, stream()) == ["2", "7"]
    assert choose_views(names, 5, None, stream()) == ["1", "3", "5", "7", "9"]
    assert choose_views(names, 99, None, stream()) == names
    assert choose_views(names, 0, None, stream()) == [] == choose_views([], 3, None, stream())


def test_view_dropout():
    names = [str(i) for i in range(10)]
    drawn = [choose_views(names, 4, AugmentConfig(), stream(e)) for e in range(400)]
    counts = np.bincount([len(chosen) for chosen in drawn], minlength=5)
    assert len(counts) == 5 and (counts > 5).all()
    assert 0.05 < counts[0] / 400 < 0.15  # no_views_probability 0.1
    assert all(chosen == sorted(set(chosen)) for chosen in drawn)
    assert choose_views(names, 4, dataclasses.replace(STILL, no_views_probability=1), stream()) == []


def test_voxels_know_where_augmentation_put_them(root):
    """Mask3D's position code turns with the scene; without augmentation there is nothing to know."""
    turned = dataclasses.replace(STILL, rotation_rad=math.pi)
    config = DataConfig(root=root, voxel_size_m=0.1, augment=turned)
    sample = SceneDataset(config, "train", 0, training=True).sample(0, 0)
    moved, still = sample.voxel_augmented_m, sample.voxel_position_m
    assert np.abs(moved - still).max() > 0.1
    np.testing.assert_allclose(moved[:, 2], still[:, 2], atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(moved[:, :2], axis=1), np.linalg.norm(still[:, :2], axis=1), atol=1e-5
    )
    assert SceneDataset(config, "train", 0, training=False).sample(0, 0).voxel_augmented_m is None
