"""The views of a scan as a whole: each planted mistake is named, right ones are left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

import needs
from bifusion.data.scan_agreement import ViewsFinding, judge_views, look_at, look_at_some
from bifusion.data.view_mistakes import OPENGL, Y_UP
from bifusion.datasets.rooms import RoomsConfig, make_room
from bifusion.errors import InputError
from bifusion.types import View
from scene_factory import SURFACE_COLORS, make_view, sample_surfaces

Scan = tuple[np.ndarray, np.ndarray, list[View]]


def tiny_room(seed: int = 0) -> Scan:
    """Points, their colours, and four views whose depth cameras stand beside the colour cameras."""
    rng = np.random.default_rng(seed)
    coord, surface = sample_surfaces(rng)
    views = [make_view(index, rng, (64, 48), (40, 30), 0.03) for index in range(4)]
    return coord.astype(np.float32), SURFACE_COLORS[surface], views


def generated_room(seed: int) -> Scan:
    scene, views = make_room(RoomsConfig(seed=seed, texture_contrast=0.5), "val", 0)
    return scene.coord, scene.color, list(views)


def judge(coord: np.ndarray, color: np.ndarray, views: Sequence[View]) -> list[ViewsFinding]:
    depth = {row: view.depth_cam2world for row, view in enumerate(views)}
    pictures = {row: view.color_cam2world for row, view in enumerate(views)}
    looked = [look_at(view, row, depth, pictures) for row, view in enumerate(views)]
    return judge_views(coord, color, looked)


def poses(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[View], View]:
    return lambda view: dataclasses.replace(
        view,
        color_cam2world=change(view.color_cam2world),
        depth_cam2world=change(view.depth_cam2world),
    )


def rolled(quarters: int) -> Callable[[View], View]:
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    turn = np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    return poses(lambda pose: pose @ turn)


def depth(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[View], View]:
    return lambda view: dataclasses.replace(
        view, depth_m=np.ascontiguousarray(change(view.depth_m), dtype=np.float32)
    )


def picture(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[View], View]:
    return lambda view: dataclasses.replace(view, color=np.ascontiguousarray(change(view.color)))


def both(quarters: int) -> Callable[[View], View]:
    turn = lambda image: np.rot90(image, quarters)  # noqa: E731
    return lambda view: depth(turn)(picture(turn)(view))


def intrinsics(scale: Callable[[np.ndarray], np.ndarray], *cameras: str) -> Callable[[View], View]:
    return lambda view: dataclasses.replace(
        view, **{f"{c}_K": scale(getattr(view, f"{c}_K")) for c in cameras}
    )


def focal(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda K: np.where(np.eye(3), K * [[factor], [factor], [1.0]], K)


def of_size(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    scaling = np.array([[factor, 0, factor / 2 - 0.5], [0, factor, factor / 2 - 0.5], [0, 0, 1]])
    return lambda K: scaling @ K


PLANTED: dict[str, tuple[Callable[[View], View], str, str]] = {
    "inverted": (poses(np.linalg.inv), "its pose inverted", "store camera-to-world"),
    "OpenGL": (poses(lambda p: p @ OPENGL), "y and z axes turned, as in OpenGL", "diag(1, -1, -1, 1)"),
    "inverted OpenGL": (
        poses(lambda p: np.linalg.inv(p @ OPENGL)),
        "its pose inverted and y and z axes turned, as in OpenGL",
        "invert each",
    ),
    "y up": (poses(lambda p: Y_UP @ p), "its pose in a frame with y up", "z up"),
    "rolled once": (rolled(1), "picture, depth and intrinsics turned by 90° anticlock", "turn"),
    "rolled thrice": (rolled(3), "picture, depth and intrinsics turned by 90° clock", "turn"),
    "upside down": (rolled(2), "by 180°", "turn"),
    "depth × 5": (depth(lambda d: d * 5), "depth divided by 5", "the stored depth by 5,"),
    "depth / 5": (depth(lambda d: d / 5), "depth divided by 0.2", "the stored depth by 0.2,"),
    "Replica": (depth(lambda d: d * 6.5535), "depth divided by 6.55", "the stored depth by 6.5535,"),
    "Matterport": (depth(lambda d: d * 4), "depth divided by 4", "the stored depth by 4,"),
    "metres as mm": (depth(lambda d: d / 1000), "depth divided by 0.001", "stored depth by 0.001,"),
    "depth × 1.4": (depth(lambda d: d * 1.4), "depth divided by 1.4", "by a factor 1.4"),
    "depth mirrored": (depth(lambda d: d[:, ::-1]), "the depth map mirrored", "mirror them back"),
    "depth turned": (depth(np.rot90), "the depth map turned by 90° clockwise", "turn them by 90°"),
    "stored sideways": (both(3), "the depth map turned by 90° anticlockwise", "turn them by 90°"),
    "focal / 2": (
        intrinsics(focal(0.5), "color", "depth"),
        "2 times the focal length of its depth camera",
        "intrinsics those of this camera",
    ),
    "focal × 1.25": (
        intrinsics(focal(1.25), "color", "depth"),
        "0.8 times the focal length of its depth camera",
        "intrinsics those of this camera",
    ),
    "intrinsics of 3/4": (
        intrinsics(of_size(0.75), "color", "depth"),
        "the intrinsics of its depth camera scaled by 1.33",
        "an image 0.75 times as large",
    ),
    "colour focal × 2": (
        intrinsics(focal(2), "color"),
        "0.5 times the focal length of its colour camera",
        "the colour camera's focal length",
    ),
    "colour intrinsics of 3/4": (
        intrinsics(of_size(0.75), "color"),
        "the intrinsics of its colour camera scaled by 1.33",
        "an image 0.75 times as large",
    ),
    "picture mirrored": (picture(lambda c: c[:, ::-1]), "the image mirrored", "mirror them back"),
    "picture turned": (picture(np.rot90), "the image turned by 90° clockwise", "turn them by 90°"),
    "picture upside down": (
        picture(lambda c: c[::-1, ::-1]),
        "the image turned by 180°",
        "turn them back",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_named_with_its_remedy(name):
    spoil, cause, remedy = PLANTED[name]
    coord, color, views = tiny_room()
    (found,) = judge(coord, color, [spoil(view) for view in views])
    assert found.cause is not None and cause in found.cause, found
    assert remedy in found.message and "views looked at fit" in found.message


def test_planted_mistakes_are_named_in_a_generated_room():
    """One room with noisy depth and poses; the rows that a training run does not try."""
    coord, color, views = generated_room(3)
    for name in (
        "inverted",
        "inverted OpenGL",
        "Replica",
        "stored sideways",
        "intrinsics of 3/4",
        "picture turned",
    ):
        spoil, cause, _ = PLANTED[name]
        (found,) = judge(coord, color, [spoil(view) for view in views])
        assert found.cause is not None and cause in found.cause, name


@pytest.mark.parametrize("places", [1, -1, 2])
def test_a_shifted_list_of_poses(places):
    coord, color, views = tiny_room()
    shifted = [
        dataclasses.replace(
            view,
            color_cam2world=views[(row - places) % 4].color_cam2world,
            depth_cam2world=views[(row - places) % 4].depth_cam2world,
        )
        for row, view in enumerate(views)
    ]
    (found,) = judge(coord, color, shifted)
    direction = "further on" if places > 0 else "before"
    assert found.cause == f"the pose {abs(places)} {direction} in the list"
    assert f"view i fits with the pose of view i {places:+d}" in found.message


@pytest.mark.parametrize("seed", range(6))
def test_right_views_of_tiny_rooms_give_nothing(seed):
    assert judge(*tiny_room(seed)) == []


@pytest.mark.parametrize("seed", range(3))
def test_right_views_of_generated_rooms_give_nothing(seed):
    assert judge(*generated_room(seed)) == []


def test_one_wrong_view_among_right_ones_is_told_without_a_common_cause():
    coord, color, views = tiny_room()
    views[2] = PLANTED["inverted"][0](views[2])
    (found,) = judge(coord, color, views)
    assert found.cause is None
    assert "1 of 4 views looked at contradict the scan: view 00002" in found.message
    assert "its pose inverted" in found.message


def test_a_view_that_cannot_be_read_is_left_out():
    def unreadable(name: str) -> View:
        raise InputError(name)

    assert look_at_some(["a", "b"], unreadable, None, 4) == []


def test_too_little_to_judge_by_gives_nothing():
    coord, color, views = tiny_room()
    assert judge(coord, color, []) == []
    assert judge(coord, color, [depth(np.zeros_like)(view) for view in views]) == []


def test_only_where_depth_was_read_from_its_files_is_a_scale_named():
    """A scene folder does not say which one it was prepared with."""
    coord, color, views = tiny_room()
    (found,) = judge(coord, color, [depth(lambda d: d * 5)(view) for view in views])
    assert "with 5 times the --depth-scale it was prepared with" in found.message
    assert "5000" not in found.message


def test_the_scale_that_depth_was_read_with_counts():
    """Read with 5000 units a metre, though millimetres."""
    coord, color, views = tiny_room()
    looked = [look_at(depth(lambda d: d / 5)(view)) for view in views]
    (found,) = judge_views(coord, color, looked, read_units=5000)
    assert "--depth-scale 1000 would make them agree (read with 5000 units a metre)" in found.message


@pytest.mark.real_data
def test_real_views_and_what_is_planted_in_them():
    """25 frames of a hand-held Kinect, laid over the points of its own depth."""
    folder = needs.folder("BIFUSION_REAL_DATA", "data") / "rgbd_redkitchen"
    if not folder.is_dir():
        needs.lacking("real_data", folder)
    coord, color, views = kitchen(folder)
    assert judge(coord, color, views) == []
    for name in (
        "OpenGL",
        "inverted",
        "y up",
        "rolled once",
        "Replica",
        "depth turned",
        "picture mirrored",
    ):
        spoil, cause, _ = PLANTED[name]
        (found,) = judge(coord, color, [spoil(view) for view in views])
        assert found.cause is not None and cause in found.cause, name


def kitchen(folder) -> Scan:
    from bifusion.untrusted.pictures import read_color, read_depth_m

    K = np.loadtxt(folder / "camera-intrinsics.txt")
    views, coord, color = [], [], []
    for path in sorted(folder.glob("*.color.jpg"))[::4]:
        stem = path.name.partition(".")[0]
        pose = np.loadtxt(folder / f"{stem}.pose.txt")
        depth_m = read_depth_m(folder / f"{stem}.depth.png")
        view = View(stem, read_color(path), depth_m, K, K, pose, pose)
        row, column = (4 * part for part in np.nonzero(depth_m[::4, ::4]))
        z = depth_m[row, column].astype(np.float64)
        ray = np.stack([(column - K[0, 2]) / K[0, 0], (row - K[1, 2]) / K[1, 1], np.ones_like(z)], 1)
        coord.append((ray * z[:, None]) @ pose[:3, :3].T + pose[:3, 3])
        color.append(view.color[row, column])
        views.append(view)
    return np.concatenate(coord).astype(np.float32), np.concatenate(color), views
