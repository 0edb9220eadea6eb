"""Views laid over their scan: right ones pass, however they look; wrong ones are named."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import needs
from bifusion import cli
from bifusion.data import view_agreement
from bifusion.data.batching import collate
from bifusion.data.dataset import DataConfig, SceneDataset
from bifusion.data.images import encoder_view
from bifusion.data.scene_folder import load_scene
from bifusion.data.view_agreement import ViewAgreementConfig, disagreeing_views, find_disagreement
from bifusion.data.view_files import load_cameras, load_view
from bifusion.data.view_fit import Camera, ScanSample, fit_colors, fit_depth
from bifusion.labels.sets import SCANNET20
from bifusion.types import DisagreeingView, View
from scene_factory import SURFACE_COLORS, make_tiny_scene, make_view, sample_surfaces

CONFIG = ViewAgreementConfig()


def room(seed: int = 0, spacing_m: float = 0.04) -> tuple[ScanSample, list[View]]:
    """A scan of the tiny room and four views of it; depth cameras stand beside colour cameras."""
    rng = np.random.default_rng(seed)
    coord, surface = sample_surfaces(rng, spacing_m)
    scan = ScanSample(coord.astype(np.float32), SURFACE_COLORS[surface])
    return scan, [make_view(index, rng, (160, 120), (120, 90), 0.03) for index in range(4)]


def look(scan: ScanSample, view: View) -> DisagreeingView | None:
    return find_disagreement("room", scan, encoder_view(view, 160, 8, 640), CONFIG)


def with_poses(view: View, change: Callable) -> View:
    return dataclasses.replace(
        view,
        color_cam2world=change(view.color_cam2world),
        depth_cam2world=change(view.depth_cam2world),
    )


def at_focal(K: np.ndarray, factor: float) -> np.ndarray:
    return np.where(np.eye(3), K * [[factor], [factor], [1.0]], K)


def turned(pose: np.ndarray, degrees: float) -> np.ndarray:
    """The camera turned about its y axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return pose @ np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])


MISTAKES: dict[str, tuple[Callable[[View], View], str]] = {
    "both focal lengths too short": (
        lambda v: dataclasses.replace(
            v, color_K=at_focal(v.color_K, 0.8), depth_K=at_focal(v.depth_K, 0.8)
        ),
        "1.25 times the focal length of its depth camera",
    ),
    "depth focal length too long": (
        lambda v: dataclasses.replace(v, depth_K=at_focal(v.depth_K, 1.5)),
        "0.67 times the focal length of its depth camera",
    ),
    "colour focal length too short": (
        lambda v: dataclasses.replace(v, color_K=at_focal(v.color_K, 0.7)),
        "1.5 times the focal length of its colour camera",
    ),
    "colour focal length twice as long": (
        lambda v: dataclasses.replace(v, color_K=at_focal(v.color_K, 2.0)),
        "0.5 times the focal length of its colour camera",
    ),
    "inverted pose": (lambda v: with_poses(v, np.linalg.inv), "its pose inverted"),
    "OpenGL axes": (lambda v: with_poses(v, lambda p: p @ np.diag([1.0, -1, -1, 1])), "OpenGL"),
    "pose turned by 30°": (lambda v: with_poses(v, lambda p: turned(p, 30)), ""),
    "mirrored image": (
        lambda v: dataclasses.replace(v, color=v.color[:, ::-1].copy()),
        "the image mirrored",
    ),
    "image upside down": (
        lambda v: dataclasses.replace(v, color=v.color[::-1].copy()),
        "the image upside down",
    ),
    "mirrored depth": (
        lambda v: dataclasses.replace(v, depth_m=v.depth_m[:, ::-1].copy()),
        "the depth map mirrored",
    ),
    "depth in other units": (lambda v: dataclasses.replace(v, depth_m=v.depth_m / 5), "check its pose"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_view_is_named(name):
    spoil, words = MISTAKES[name]
    scan, views = room()
    for view in views:
        found = look(scan, spoil(view))
        assert found is not None and (found.scene, found.view) == ("room", view.name)
        assert found.message.startswith(f"view {view.name}: ") and words in found.message
        too_high = found.figure == "in_front"
        assert found.value > found.threshold if too_high else found.value < found.threshold


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing_m", [0.03, 0.09])
def test_right_views_pass_on_dense_and_coarse_scans(seed, spacing_m):
    scan, views = room(seed, spacing_m)
    assert [look(scan, view) for view in views] == [None] * 4


def test_exposure_and_white_balance_do_not_matter():
    scan, views = room()
    for view in views:
        color = np.clip(view.color * np.array([0.5, 0.7, 0.6]) + 20, 0, 255).astype(np.uint8)
        assert look(scan, dataclasses.replace(view, color=color)) is None


def test_noise_and_holes_in_the_depth_do_not_matter():
    scan, views = room()
    rng = np.random.default_rng(0)
    for view in views:
        noisy = view.depth_m * (1 + 0.01 * rng.standard_normal(view.depth_m.shape))
        holes = rng.random(view.depth_m.shape) < 0.3
        depth_m = np.where(holes, 0, noisy).astype(np.float32)
        assert look(scan, dataclasses.replace(view, depth_m=depth_m)) is None


def test_what_other_rooms_hide_does_not_matter():
    """A flat: most points in the frustum lie in rooms behind the walls that the view sees."""
    rng = np.random.default_rng(0)
    coord, surface = sample_surfaces(rng, 0.04)
    behind = [coord + np.array([3.0 * x, 3.0 * y, 0]) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    scan = ScanSample(
        np.concatenate(behind).astype(np.float32), np.tile(SURFACE_COLORS[surface], (9, 1))
    )
    for index in range(4):
        assert look(scan, make_view(index, rng, (160, 120), (120, 90), 0.03)) is None


def test_a_scan_that_covers_half_of_what_the_view_sees():
    rng = np.random.default_rng(0)
    coord, surface = sample_surfaces(rng, 0.04)
    half = coord[:, 0] < 1.2
    scan = ScanSample(coord[half].astype(np.float32), SURFACE_COLORS[surface][half])
    for index in range(4):
        assert look(scan, make_view(index, rng, (160, 120), (120, 90), 0.03)) is None


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_in_a_grey_untextured_room_colour_tells_nothing(noise):
    rng = np.random.default_rng(0)
    coord, _ = sample_surfaces(rng, 0.04)
    scan = ScanSample(coord.astype(np.float32), np.full((len(coord), 3), 128, np.uint8))
    for index in range(4):
        view = make_view(index, rng, (160, 120), (120, 90), 0.03)
        grey = 128 + noise * rng.standard_normal(view.color.shape)
        view = dataclasses.replace(view, color=grey.astype(np.uint8))
        assert look(scan, view) is None
        # The geometry tells as ever.
        assert look(scan, with_poses(view, np.linalg.inv)) is not None


def test_nothing_measured_and_hardly_any_points():
    scan, (view, *_) = room()
    assert look(scan, dataclasses.replace(view, depth_m=np.zeros_like(view.depth_m))) is None
    tiny = ScanSample(scan.coord[:5], scan.color[:5])
    found = look(tiny, view)
    assert found is None or found.figure == "support"


def test_fits_are_what_they_say():
    """A wall at 2 m, seen head-on by a camera at the origin that measured 2 m: all agree."""
    x, y = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41))
    coord = np.stack([x.ravel(), y.ravel(), np.full(x.size, 2.0)], axis=1)
    color = np.repeat(np.where(coord[:, :1] > 0.16, 200, 50), 3, axis=1).astype(np.uint8)
    scan = ScanSample(coord, color)
    K = np.array([[40.0, 0, 19.5], [0, 40, 19.5], [0, 0, 1]])
    depth = Camera(np.eye(4), K, np.full((40, 40), 2.0, np.float32))
    fit = fit_depth(scan, depth, 2000)
    assert (fit.agree, fit.in_front, fit.support, fit.fit) == (1.0, 0.0, 1.0, 1.0)
    farther = fit_depth(scan, dataclasses.replace(depth, pixels=2 * depth.pixels), 2000)
    assert (farther.agree, farther.in_front, farther.support) == (0.0, 1.0, 0.0)
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 23:] = 100
    right = fit_colors(scan.coord, scan.color, Camera(np.eye(4), K, image))
    assert right.correlation > 0.8 and right.points == 1600
    inverse = fit_colors(scan.coord, scan.color, Camera(np.eye(4), K, 100 - image))
    assert inverse.correlation == pytest.approx(-right.correlation)


def test_the_sample_is_fixed():
    coord = np.random.default_rng(0).random((50_000, 3))
    first, second = (ScanSample(coord, coord) for _ in range(2))
    assert np.array_equal(first.coord, second.coord) and len(first.coord) == 20_000


# -------------------------------------------------------------------------------- in the data set


def spoil_pose(folder: Path, name: str) -> None:
    """Writes the pose of one view inverted, as files with world-to-camera poses would."""
    path = folder / "views" / "cameras.npz"
    fields = dict(np.load(path))
    row = load_cameras(folder).names.index(name)
    for camera in ("color", "depth"):
        fields[f"{camera}_cam2world"][row] = np.linalg.inv(fields[f"{camera}_cam2world"][row])
    np.savez(path, **fields)


def test_a_batch_names_the_view_and_scene_whenever_it_holds_it(tmp_path):
    for index in range(2):
        make_tiny_scene(tmp_path / "train" / f"room{index}", seed=index)
    spoil_pose(tmp_path / "train" / "room1", "00001")
    config = DataConfig(root=tmp_path, max_views=2, image_size=64, patch_size=8, cache_mb=0)
    dataset = SceneDataset(config, "train", seed=0, training=False)
    for epoch in (0, 1):  # looked for once, remembered though nothing is cached
        batch = collate([dataset.sample(index, epoch) for index in range(2)])
        (found,) = disagreeing_views(batch)
        assert (found.scene, found.view, found.figure) == ("room1", "00001", "depth_fit")
    assert [v.disagreement is None for v in batch.views] == [True, True, True, False]
    assert disagreeing_views(batch.to(torch.device("cpu"))) == [found]


def test_a_view_is_compared_once_with_its_scan(tmp_path, monkeypatch):
    make_tiny_scene(tmp_path / "train" / "room0")
    compared = []
    monkeypatch.setattr(
        view_agreement,
        "find_disagreement",
        lambda scene, scan, view, config: compared.append((scene, view.name)),
    )
    config = DataConfig(root=tmp_path, max_views=2, image_size=64, patch_size=8, cache_mb=0)
    dataset = SceneDataset(config, "train", seed=0, training=False)
    for epoch in range(3):
        dataset.sample(0, epoch)
    assert sorted(compared) == [("room0", "00000"), ("room0", "00001")]


def test_the_check_can_be_switched_off(tmp_path):
    make_tiny_scene(tmp_path / "train" / "room0")
    spoil_pose(tmp_path / "train" / "room0", "00001")
    off = ViewAgreementConfig(check=False)
    config = DataConfig(root=tmp_path, max_views=2, image_size=64, patch_size=8, agreement=off)
    dataset = SceneDataset(config, "train", seed=0, training=False)
    assert disagreeing_views(collate([dataset.sample(0, 0)])) == []


@pytest.mark.real_data
def test_real_views(tmp_path):
    """Two frames of ScanNet: right as they are, and wrong in each of the ways above."""
    real = needs.folder("BIFUSION_REAL_DATA", "data") / "scannet"
    if not real.is_dir():
        needs.lacking("real_data", real)
    for split, names in (("train", "scene0000_00\n"), ("val", "")):
        (tmp_path / f"scannetv2_{split}.txt").write_text(names)
    options = {
        "--scans": real / "scans",
        "--labels": real / "meta" / "scannetv2-labels.combined.tsv",
        "--posed-images": real / "posed_images",
        "--splits": tmp_path,
        "--long-side": 640,
        "--out": tmp_path / "data",
    }
    args = [str(part) for pair in options.items() for part in pair]
    assert cli.COMMANDS["prepare"](["scannet", *args]) == 0
    folder = tmp_path / "data" / "train" / "scene0000_00"
    scene = load_scene(folder, SCANNET20)
    scan = ScanSample(np.array(scene.coord), np.array(scene.color))
    for view in [load_view(folder, name) for name in scene.view_names]:
        assert look(scan, view) is None
        for mistake, (spoil, _) in MISTAKES.items():
            assert look(scan, spoil(view)) is not None, mistake
