"""Checks of a scene's views: cameras, pictures, depth, and whether they fit the points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from bifusion.data.checks import check_finite, check_intrinsics, check_pose
from bifusion.data.scan_agreement import LookedAt, chosen_rows, judge_views, look_at
from bifusion.data.view_files import Cameras, load_color, load_depth_m, load_view
from bifusion.datasets.check.opened import Finding, OpenedScene, error, warning
from bifusion.errors import InputError

MOST_COMPARED = 8
"""Views, evenly spaced, that are compared with the points."""


def cameras(scene: OpenedScene) -> Iterator[Finding]:
    """Poses that are not rigid, intrinsics of another image size; each view."""
    if scene.cameras is None:
        return
    for row in range(len(scene.cameras.names)):
        for camera in ("colour", "depth"):
            yield from _refused(check_camera, scene.cameras, row, camera)


def check_camera(cameras: Cameras, row: int, camera: str) -> None:
    """InputError where the pose or the intrinsics of a view's "colour" or "depth" camera cannot be."""
    where = f"{cameras.path}: view {cameras.names[row]}, {camera} camera"
    prefix = "color" if camera == "colour" else "depth"
    width, height = getattr(cameras, f"{prefix}_size")[row]
    if min(width, height) < 1:
        raise InputError(f"{where}: images are {width}×{height} pixels; prepare the scene again")
    check_pose(getattr(cameras, f"{prefix}_cam2world")[row], where)
    check_intrinsics(getattr(cameras, f"{prefix}_K")[row], (int(width), int(height)), where)


def pictures(scene: OpenedScene) -> Iterator[Finding]:
    """Colour and depth images that cannot be decoded, of another size, without a measurement; those
    that no camera is listed for."""
    if scene.cameras is None:
        return
    for row in range(len(scene.cameras.names)):
        yield from _refused(load_color, scene.cameras, row)
        yield from _depth(scene.cameras, row)
    folder, listed = scene.folder / "views", set(scene.cameras.names)
    stray = sorted(path.name for path in folder.glob("*.jpg") if path.stem not in listed)
    if stray:
        yield warning(
            f"{folder}: {len(stray)} pictures have no camera in cameras.npz (first: {stray[0]}) and are "
            "never read; prepare the scene again, or remove them"
        )


def _depth(cameras: Cameras, row: int) -> Iterator[Finding]:
    """What is wrong with the depth of a view."""
    try:
        measured = load_depth_m(cameras, row).any()
    except InputError as problem:
        yield error(problem)
        return
    if not measured:
        yield warning(
            f"{cameras.path.parent / cameras.names[row]}.png: nothing was measured, all of it is 0; "
            "expected depth in millimetres: no point is seen by this view, leave it out"
        )


def agreement(scene: OpenedScene) -> Iterator[Finding]:
    """Views that contradict the points, with the likely cause where one explains it."""
    coord, color = scene.arrays.get("coord"), scene.arrays.get("color")
    if scene.cameras is None or coord is None or color is None:
        return
    if list(_refused(check_finite, coord, "")):
        return
    looked = list(_look(scene, scene.cameras))
    for found in judge_views(np.asarray(coord), np.asarray(color), looked):
        told = error if found.cause else warning
        yield told(f"{scene.folder / 'views'}: {found.message}")


def _look(scene: OpenedScene, cameras: Cameras) -> Iterator[LookedAt]:
    """Some of the views that can be read, beside the cameras that can be."""
    right = [
        row
        for row in range(len(cameras.names))
        if not any(list(_refused(check_camera, cameras, row, which)) for which in ("colour", "depth"))
    ]
    depth_poses = {row: cameras.depth_cam2world[row] for row in right}
    color_poses = {row: cameras.color_cam2world[row] for row in right}
    for place in chosen_rows(len(right), MOST_COMPARED):
        row = right[place]
        with suppress(InputError):  # told by `pictures`
            view = load_view(scene.folder, cameras.names[row], cameras)
            yield look_at(view, row, depth_poses, color_poses)


def _refused(check: Callable[..., Any], *arguments: Any) -> Iterator[Finding]:
    """What `check` says of its arguments."""
    try:
        check(*arguments)
    except InputError as problem:
        yield error(problem)
