"""Posed RGB-D images of a ScanNet scan as Views.

Released depth images are already registered to the colour camera: the .sens files state depth
intrinsics that are the colour camera's, scaled by the image sizes, and identity extrinsics
(maintainers in issue 92 of the ScanNet repository). The calibration in NAME.txt (fx_depth …,
colorToDepthExtrinsics) describes the sensor before that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from bifusion.data.checks import check_pose
from bifusion.data.images import is_resized, resize_intrinsics
from bifusion.data.scan_agreement import LookedAt, chosen_rows, judge_views, look_at
from bifusion.data.view_mistakes import SHIFTS
from bifusion.datasets.mesh_depth import MeshDepth
from bifusion.datasets.recordings.depth_files import FLOATS, holds_floats, read_depth_file
from bifusion.datasets.recordings.text_files import read_pose
from bifusion.datasets.scannet.posed_images import Frame, PosedImages
from bifusion.datasets.scannet.scan import Scan, ScanMeta
from bifusion.errors import InputError, listing
from bifusion.types import View
from bifusion.untrusted.pictures import DEPTH_SCALE, UPRIGHT, image_size, read_upright

DepthFrame = Literal["registered", "sensor"]
"""Depth images seen from the colour camera, as released, or from the depth sensor itself."""
MOST_COMPARED = 8
"""Views, evenly spaced, that are compared with the scan."""
RENDERED_LONG_SIDE = 320
"""Pixels of depth maps that are rendered, at most."""


@dataclass(frozen=True)
class ViewOptions:
    """How posed images are read."""

    frame_skip: int = 1
    """Take every n-th."""
    depth_frame: DepthFrame = "registered"
    """"sensor" for depth images that were not registered to the colour camera."""
    depth_scale: float = DEPTH_SCALE
    """Units of the depth images per metre."""
    long_side: int | None = None
    """Colour images larger than this many pixels are reduced to it, intrinsics with them."""


def iterate_views(
    images: PosedImages, frames: list[Frame], scan: Scan, options: ViewOptions
) -> Iterator[View]:
    """The views of `frames` in the scene's frame, read one at a time.

    Where no frame has depth it is rendered from the mesh. `scan.notes` gets what the user should know.

    Args:
        images: cameras of the frames.
        frames: those of `images` that are wanted; a pose of −inf is an error here.
        scan: its placement is applied to the poses; its metadata are used with `depth_frame` "sensor",
            its mesh where depth is rendered.
    """
    mesh = _mesh_depth(images, frames, scan)
    chosen, looked = set(chosen_rows(len(frames), MOST_COMPARED)), []
    empty: list[str] = []
    units = _units(frames, scan, options)
    for row, frame in enumerate(frames):
        color, color_K = _read_color(frame.color, images, scan)
        size = image_size(color)
        pose = _pose(frame, scan)
        if frame.depth is None:
            assert mesh is not None
            depth_K, depth_m = _rendered(mesh, color_K, size, pose @ images.color_extrinsic)
            depth_extrinsic = images.color_extrinsic
        else:
            depth_m = read_depth_file(frame.depth, units)
            if not depth_m.any():
                empty.append(frame.depth.name)
            depth_K, depth_extrinsic = _depth_camera(
                frame, color_K, size, depth_m, images, scan, options
            )
        color, color_K = _reduced(color, color_K, options.long_side)
        view = View(
            name=frame.name,
            color=color,
            depth_m=depth_m,
            color_K=color_K,
            depth_K=depth_K,
            color_cam2world=pose @ images.color_extrinsic,
            depth_cam2world=pose @ depth_extrinsic,
        )
        if row in chosen:
            looked.append(_looked_at(view, row, images, frames, scan))
        yield view
    if empty:
        scan.notes.append(
            f"in the depth of {len(empty)} of {len(frames)} views nothing was measured, all of it is 0 "
            f"or 65535 ({listing(empty, 3)}): no point is seen by them; export depth again, or leave "
            "them out"
        )
    found = judge_views(scan.scene.coord, scan.scene.color, looked, read_units=units)
    scan.notes.extend(finding.message for finding in found)


def _units(frames: list[Frame], scan: Scan, options: ViewOptions) -> float:
    """Units of depth a metre: of floats 1, where nobody says another."""
    first = next((frame.depth for frame in frames if frame.depth and frame.depth.is_file()), None)
    if first is None or options.depth_scale != DEPTH_SCALE or not holds_floats(first):
        return options.depth_scale
    scan.notes.append(FLOATS)
    return 1.0


def _pose(frame: Frame, scan: Scan) -> np.ndarray:
    """(4, 4) camera to the scene's frame."""
    return scan.placement.pose(check_pose(read_pose(frame.pose), frame.pose))


def _looked_at(view: View, row: int, images: PosedImages, frames: list[Frame], scan: Scan) -> LookedAt:
    """A view, to be compared with the scan, and where the cameras before and after it are."""
    near = {
        row + shift: _pose(frames[row + shift], scan)
        for shift in SHIFTS
        if 0 <= row + shift < len(frames)
    }
    depth = {other: pose @ images.depth_extrinsic for other, pose in near.items()}
    color = {other: pose @ images.color_extrinsic for other, pose in near.items()}
    return look_at(view, row, depth, color)


def _mesh_depth(images: PosedImages, frames: list[Frame], scan: Scan) -> MeshDepth | None:
    """What renders depth, if it must be rendered."""
    lacking = sum(frame.depth is None for frame in frames)
    if not lacking:
        return None
    if len(scan.faces) == 0:
        raise InputError(
            f"{images.folder}: holds no depth images, and without faces {scan.mesh} cannot be rendered; "
            "export depth too, or leave --posed-images out"
        )
    scan.notes.append("the images have no depth: it was rendered from the mesh")
    return MeshDepth(scan.scene.coord.astype(np.float64), scan.faces)


def _rendered(
    mesh: MeshDepth, color_K: np.ndarray, size: tuple[int, int], cam2world: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics and depth map of the colour camera, reduced."""
    small = _fitting(size, RENDERED_LONG_SIDE)
    depth_K = resize_intrinsics(color_K, size, small)
    return depth_K, mesh.render(depth_K, cam2world, small)


def _read_color(path: Path, images: PosedImages, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """A picture, upright, and the intrinsics, which must be those of the upright one."""
    color, orientation = read_upright(path)
    size = image_size(color)
    if orientation != UPRIGHT:
        scan.notes.append("pictures were turned as their orientation tag says")
    camera = images.color_camera()
    camera.check_turned(size, path, orientation)
    return color, camera.fitted(size, f"{images.folder}: intrinsics for {path.name}")


def _depth_camera(
    frame: Frame, color_K: np.ndarray, size: tuple[int, int], depth_m: np.ndarray, images: PosedImages,
    scan: Scan, options: ViewOptions,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Intrinsics (3, 3) and extrinsic (4, 4) of the depth camera."""
    depth_size = image_size(depth_m)
    if options.depth_frame == "sensor":
        return sensor_calibration(scan.meta, depth_size)
    if (camera := images.depth_camera()) is not None:
        if camera.size is None:
            return camera.K, camera.extrinsic
        return camera.fitted(
            depth_size, f"{images.folder}: intrinsics for {frame.name}"
        ), camera.extrinsic
    assert frame.depth is not None
    _check_aspect(frame.depth, size, depth_size)
    return resize_intrinsics(color_K, size, depth_size), images.depth_extrinsic


def _reduced(
    color: np.ndarray, color_K: np.ndarray, long_side: int | None
) -> tuple[np.ndarray, np.ndarray]:
    size = image_size(color)
    if not long_side or max(size) <= long_side:
        return color, color_K
    small = _fitting(size, long_side)
    resized = Image.fromarray(color).resize(small, Image.Resampling.BICUBIC)
    return np.array(resized), resize_intrinsics(color_K, size, small)


def _fitting(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """`size` reduced to `long_side` where it is larger."""
    scale = min(1.0, long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def sensor_calibration(meta: ScanMeta, depth_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics (3, 3) and depth-to-colour transform (4, 4) of the depth sensor, from NAME.txt."""
    needed = (
        "fx_depth",
        "fy_depth",
        "mx_depth",
        "my_depth",
        "depthWidth",
        "depthHeight",
        "colorToDepthExtrinsics",
    )
    sizes = dict.fromkeys(needed[:6], 1) | {needed[6]: 16}
    none = np.zeros(0)
    lacking = [key for key, size in sizes.items() if meta.values.get(key, none).size != size]
    if lacking:
        raise InputError(
            f"{meta.path}: lacks {', '.join(lacking)}; depth of the sensor needs its calibration"
        )
    fx, fy, cx, cy, width, height = (float(meta.values[key][0]) for key in needed[:6])
    if not (1 <= width <= 1e5 and 1 <= height <= 1e5):
        raise InputError(
            f"{meta.path}: depthWidth, depthHeight: found {width:g}, {height:g}; expected pixels"
        )
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    where = f"{meta.path}: colorToDepthExtrinsics"
    color_to_depth = check_pose(meta.values["colorToDepthExtrinsics"].reshape(4, 4), where)
    return resize_intrinsics(K, (int(width), int(height)), depth_size), np.linalg.inv(color_to_depth)


def _check_aspect(path: Path, color_size: tuple[int, int], depth_size: tuple[int, int]) -> None:
    if not is_resized(depth_size, color_size):
        raise InputError(
            f"{path}: depth is {depth_size[0]}×{depth_size[1]} and colour "
            f"{color_size[0]}×{color_size[1]} pixels: one is not the other resized; "
            "add the depth camera's own intrinsic_depth.txt"
        )
