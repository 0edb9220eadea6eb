"""Posed RGB-D images of a ScanNet scan, in the layouts they are exported in, as Views.

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

from bifusion.data.checks import check_intrinsics, check_pose
from bifusion.data.images import resize_intrinsics
from bifusion.data.view_files import image_size, read_color, read_depth_m
from bifusion.datasets.scannet.scan import ScanMeta
from bifusion.types import InputError, View

DepthFrame = Literal["registered", "sensor"]
"""Depth images seen from the colour camera, as released, or from the depth sensor itself."""


@dataclass
class Frame:
    """Files of one posed image."""

    name: str
    color: Path
    depth: Path
    pose: Path


@dataclass
class PosedImages:
    """Frames of one scan and their cameras' files."""

    folder: Path
    frames: list[Frame]
    color_K: np.ndarray
    """(3, 3), pixels of the colour images."""
    depth_K: np.ndarray | None
    """(3, 3), pixels of the depth images; None: the colour camera's, scaled by the image sizes."""
    color_extrinsic: np.ndarray
    """(4, 4) colour camera to the frame that poses speak of; nearly always the identity."""
    depth_extrinsic: np.ndarray


def find_posed_images(folder: Path) -> PosedImages:
    """The posed images in `folder`, in either layout of export.

    - `00000.jpg`, `00000.png` (or `00000.rendered_depth_WxH.png`), `00000.txt`, `intrinsic.txt` and,
      optionally, `intrinsic_depth.txt`;
    - `color/0.jpg`, `depth/0.png`, `pose/0.txt`, `intrinsic/intrinsic_color.txt` and
      `intrinsic_depth.txt`, optionally `extrinsic_color.txt` and `extrinsic_depth.txt`.

    Frames are those that have a pose file, in the order of their numbers.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected the scan's posed images there")
    exported = (folder / "pose").is_dir()
    poses = sorted((folder / "pose" if exported else folder).glob("[0-9]*.txt"), key=_frame_number)
    if not poses:
        raise InputError(
            f"{folder}: holds no posed image; expected 00000.jpg, 00000.png, 00000.txt and "
            "intrinsic.txt, or the folders color/, depth/, pose/ and intrinsic/ of an export from .sens"
        )
    if exported:
        cameras = folder / "intrinsic"
        frames = [
            Frame(p.stem, folder / "color" / f"{p.stem}.jpg", folder / "depth" / f"{p.stem}.png", p)
            for p in poses
        ]
        color_K = read_intrinsics(cameras / "intrinsic_color.txt")
    else:
        cameras = folder
        frames = [Frame(p.stem, p.with_suffix(".jpg"), _depth_path(p), p) for p in poses]
        color_K = read_intrinsics(folder / "intrinsic.txt")
    depth_file = cameras / "intrinsic_depth.txt"
    return PosedImages(
        folder=folder,
        frames=frames,
        color_K=color_K,
        depth_K=read_intrinsics(depth_file) if depth_file.exists() else None,
        color_extrinsic=_read_extrinsic(cameras / "extrinsic_color.txt"),
        depth_extrinsic=_read_extrinsic(cameras / "extrinsic_depth.txt"),
    )


def pose_is_lost(frame: Frame) -> bool:
    """Whether ScanNet's tracking lost this frame: it writes a pose of −inf then."""
    return not np.isfinite(read_matrix(frame.pose)).all()


def iterate_views(
    images: PosedImages,
    frames: list[Frame],
    meta: ScanMeta,
    *,
    depth_frame: DepthFrame = "registered",
    long_side: int | None = None,
) -> Iterator[View]:
    """The views of `frames`, axis-aligned, read one at a time.

    Args:
        images: cameras of the frames.
        frames: those of `images` that are wanted; a pose of −inf is an error here.
        meta: its axis alignment is applied to the poses; with `depth_frame` "sensor" its depth
            calibration is used.
        depth_frame: "sensor" for depth images that were not registered to the colour camera.
        long_side: colour images larger than this are reduced to it, intrinsics with them.
    """
    for frame in frames:
        color, depth_m = read_color(frame.color), read_depth_m(frame.depth)
        color_size, depth_size = image_size(color), image_size(depth_m)
        color_K = check_intrinsics(
            images.color_K, color_size, f"{images.folder}: intrinsics for {frame.color.name}"
        )
        pose = meta.axis_alignment @ check_pose(read_matrix(frame.pose), frame.pose)
        depth_K, depth_extrinsic = images.depth_K, images.depth_extrinsic
        if depth_frame == "sensor":
            depth_K, depth_extrinsic = sensor_calibration(meta, depth_size)
        elif depth_K is None:
            _check_aspect(frame.depth, color_size, depth_size)
            depth_K = resize_intrinsics(color_K, color_size, depth_size)
        if long_side and max(color_size) > long_side:
            scale = long_side / max(color_size)
            new_size = (max(1, round(color_size[0] * scale)), max(1, round(color_size[1] * scale)))
            color_K = resize_intrinsics(color_K, color_size, new_size)
            color = np.array(Image.fromarray(color).resize(new_size, Image.Resampling.BICUBIC))
        yield View(
            name=frame.name,
            color=color,
            depth_m=depth_m,
            color_K=color_K,
            depth_K=depth_K,
            color_cam2world=pose @ images.color_extrinsic,
            depth_cam2world=pose @ depth_extrinsic,
        )


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
    lacking = [key for key in needed if key not in meta.values]
    if lacking:
        raise InputError(
            f"{meta.path}: lacks {', '.join(lacking)}; depth of the sensor needs its calibration"
        )
    fx, fy, cx, cy, width, height = (float(meta.values[key][0]) for key in needed[:6])
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    where = f"{meta.path}: colorToDepthExtrinsics"
    color_to_depth = check_pose(meta.values["colorToDepthExtrinsics"].reshape(-1, 4), where)
    return resize_intrinsics(K, (int(width), int(height)), depth_size), np.linalg.inv(color_to_depth)


def read_intrinsics(path: Path) -> np.ndarray:
    """(3, 3) pinhole matrix from a text file of 3×3 or 4×4 numbers."""
    matrix = read_matrix(path)
    if matrix.shape not in ((3, 3), (4, 4)):
        raise InputError(
            f"{path}: the intrinsics have shape {matrix.shape}; expected 3×3 or 4×4 numbers"
        )
    return matrix[:3, :3]


def read_matrix(path: Path) -> np.ndarray:
    """Numbers of a text file, one row a line."""
    try:
        return np.atleast_2d(
            np.array([line.split() for line in path.read_text().splitlines() if line.strip()], float)
        )
    except FileNotFoundError:
        raise InputError(f"{path}: missing; the posed images need it") from None
    except ValueError as error:
        raise InputError(f"{path}: is no matrix of numbers ({error}); export it again") from None


def _read_extrinsic(path: Path) -> np.ndarray:
    return check_pose(read_matrix(path), path) if path.exists() else np.eye(4)


def _depth_path(pose: Path) -> Path:
    """The depth image beside a pose file: of the sensor, or rendered from the mesh."""
    rendered = sorted(pose.parent.glob(f"{pose.stem}.rendered_depth_*.png"))
    return rendered[0] if rendered else pose.with_suffix(".png")


def _frame_number(path: Path) -> int:
    if not path.stem.isdigit():
        raise InputError(f"{path}: expected a frame number as the file's name, like 00000.txt")
    return int(path.stem)


def _check_aspect(path: Path, color_size: tuple[int, int], depth_size: tuple[int, int]) -> None:
    stretch = (depth_size[0] / color_size[0]) / (depth_size[1] / color_size[1])
    if abs(stretch - 1) > 0.02:
        raise InputError(
            f"{path}: depth is {depth_size[0]}×{depth_size[1]} and colour "
            f"{color_size[0]}×{color_size[1]} pixels: one is not the other resized; "
            "add the depth camera's own intrinsic_depth.txt"
        )
