"""Posed RGB-D images that a user gives as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from bifusion.arguments import text_of
from bifusion.data.checks import check_view
from bifusion.data.images import is_resized, resize_intrinsics
from bifusion.data.view_files import check_view_name
from bifusion.datasets.arrays.arguments import as_array
from bifusion.datasets.placement import Placement
from bifusion.errors import InputError
from bifusion.types import View
from bifusion.untrusted.pictures import image_size

Size = tuple[int, int]
DEPTH_M = (0.05, 50.0)
"""Where the median of what a view measured lies indoors: millimetres are far beyond, kilometres and
depth that was divided twice far below."""


def posed_view(
    color: Any,
    depth_m: Any,
    K: Any,
    cam2world: Any,
    *,
    name: str | int = "0",
    depth_K: Any = None,
    depth_cam2world: Any = None,
) -> View:
    """One posed RGB-D image, checked; the depth camera's own figures only where they differ.

    Args:
        color: (H, W, 3) uint8 RGB.
        depth_m: (Hd, Wd) float metres along the camera's z axis, 0 where nothing was measured.
        K: (3, 3) pinhole matrix in pixels of `color`, the top-left pixel's centre at (0, 0).
        cam2world: (4, 4) rigid, camera (x right, y down, z forward) to the scene's frame, metres.
        name: each view of a scene its own; a whole number counts as its digits.
        depth_K: (3, 3) in pixels of `depth_m`; None: K at that size (depth registered to colour).
        depth_cam2world: (4, 4); None: cam2world.
    Raises:
        InputError: naming the argument: another shape or type, no pixel, no measured depth, numbers that
            are not finite or that no camera has, a pose that is not rigid.
    """
    name = str(name) if type(name) is int or isinstance(name, np.integer) else text_of(name, "name")
    picture, depth = as_array(color, "color"), as_array(depth_m, "depth_m")
    _check_pictures(picture, depth, f"views: view {name}")
    matrix, pose = as_array(K, "K", np.float64), as_array(cam2world, "cam2world", np.float64)
    if depth_K is None and matrix.shape == (3, 3) and picture.ndim == 3 and depth.ndim == 2:
        depth_K = _registered(matrix, image_size(picture), image_size(depth), name)
    view = View(
        name=name,
        color=picture,
        depth_m=depth,
        color_K=matrix,
        depth_K=matrix if depth_K is None else as_array(depth_K, "depth_K", np.float64),
        color_cam2world=pose,
        depth_cam2world=(
            pose if depth_cam2world is None else as_array(depth_cam2world, "depth_cam2world", np.float64)
        ),
    )
    _check_view(view)
    if not view.depth_m.any():
        raise InputError(
            f"views: view {view.name}: depth_m is 0 everywhere, which is nowhere measured; leave the "
            "view out, as it shows no point of the scene"
        )
    return view


def _check_pictures(color: np.ndarray, depth: np.ndarray, where: str) -> None:
    """InputError for arrays that are no pictures, or of no pixel, before their sizes are compared."""
    if color.ndim != 3 or color.shape[2] != 3 or color.dtype != np.uint8 or not color.size:
        raise InputError(
            f"{where}: color is {color.dtype} of shape {color.shape}; expected uint8 (H, W, 3), RGB of "
            f"at least one pixel{_color_remedy(color)}"
        )
    if depth.ndim != 2 or not depth.size:
        found = "None" if depth.dtype == object and depth.shape == () else f"of shape {depth.shape}"
        squeeze = ": depth_m[..., 0]" if depth.ndim == 3 and depth.shape[2] == 1 else ""
        raise InputError(
            f"{where}: depth_m is {found}; expected (H, W) metres of at least one pixel{squeeze}"
        )


def _color_remedy(color: np.ndarray) -> str:
    """What makes colours of an array that is none; empty where nothing tells."""
    if not color.size:
        return ""
    if color.dtype.kind == "f" and 0 <= color.min() <= color.max() <= 1:
        return ": multiply colours of 0 … 1 by 255, round them and take them as uint8"
    if color.ndim == 3 and color.shape[2] == 4:
        return ": leave the alpha channel out, color[..., :3]"
    if color.ndim == 3 and color.shape[0] == 3:
        return ": color.transpose(1, 2, 0)"
    if color.ndim == 2:
        return ": repeat grey three times, np.stack([color] * 3, axis=2)"
    return ": clip to 0 … 255 and take as uint8" if color.dtype.kind in "iuf" else ""


def _registered(K: np.ndarray, color: Size, depth: Size, name: str) -> np.ndarray:
    """`K` of the colour image at the size of a depth image of the same camera."""
    if not is_resized(depth, color):
        raise InputError(
            f"views: view {name}: depth_m is {depth[0]}×{depth[1]} and color {color[0]}×{color[1]} "
            "pixels: one is not the other resized; give depth_K, the depth camera's own"
        )
    return resize_intrinsics(K, color, depth)


def check_views(views: Any) -> None:
    """InputError for what holds no views, before anything is computed for them; a generator stays as it
    is."""
    if isinstance(views, View):
        raise InputError("views: is one View; expected a list of them: views=[view]")
    if not isinstance(views, Iterable):
        raise InputError(f"views: is a {type(views).__name__}; expected a list of bifusion.View")


def placed_views(views: Iterable[View], placement: Placement) -> Iterator[View]:
    """Each view checked, its poses in the scene's frame; no two of one name."""
    names: set[str] = set()
    for view in views:
        if not isinstance(view, View):
            raise InputError(
                f"views: found a {type(view).__name__}; expected bifusion.View (bifusion.posed_view)"
            )
        _check_view(view)
        if view.name in names:
            raise InputError(f"views: two are called {view.name!r}; give each view a name of its own")
        names.add(view.name)
        color_pose, depth_pose = map(placement.pose, (view.color_cam2world, view.depth_cam2world))
        yield View(
            view.name,
            view.color,
            view.depth_m.astype(np.float32),
            view.color_K,
            view.depth_K,
            color_pose,
            depth_pose,
        )


def _check_view(view: View) -> None:
    """As `check_view`, that it can be stored by its name, and that depth is in metres."""
    check_view_name(view.name)
    where = f"views: view {view.name}"
    check_view(view, where)
    measured = view.depth_m[view.depth_m > 0]
    middle = float(np.median(measured)) if measured.size else DEPTH_M[0]
    if not DEPTH_M[0] <= middle <= DEPTH_M[1]:
        raise InputError(
            f"{where}: the median of depth_m is {middle:.3g} m, as in no room; expected metres, from "
            f"{DEPTH_M[0]:g} to {DEPTH_M[1]:g}: divide millimetres by 1000, once"
        )
