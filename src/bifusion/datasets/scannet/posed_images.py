"""Which files are a ScanNet scan's posed images, in the layouts they are exported in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bifusion.data.checks import check_pose
from bifusion.datasets.recordings.intrinsics import Calibration, read_calibration
from bifusion.datasets.recordings.pairs import check_shift
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, DEPTH_ENDINGS, by_number, numbered
from bifusion.datasets.recordings.text_files import read_matrix, read_pose
from bifusion.errors import InputError, listing
from bifusion.untrusted.files import entries
from bifusion.untrusted.pictures import image_mode

COLOR_FOLDERS = ("color", "colour", "image", "images", "rgb")
DEPTH_FOLDERS = ("depth", "depths")
POSE_FOLDERS = ("pose", "poses")
"""Of an export; the first is .sens files' own, capitals are as good."""
CAMERA_FOLDERS = ("intrinsic", "intrinsics", ".")
COLOR_CAMERA = ("intrinsic_color.txt", "intrinsics_color.txt", "intrinsic.txt", "intrinsics.txt")
DEPTH_CAMERA = ("intrinsic_depth.txt", "intrinsics_depth.txt")
GREY_DEPTH = ("I;16", "I;16B", "I;16L", "I", "F")
"""Modes of pictures with more than 8 bits a pixel: depth, not colour."""


@dataclass
class Frame:
    """Files of one posed image."""

    name: str
    color: Path
    depth: Path | None
    """None where none of the scan's images has depth."""
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
    color_size: tuple[int, int] | None = None
    """Width, height of the pictures that `color_K` is for, where its file names them: others are these
    resized. None: of the pictures as they are; likewise …"""
    depth_size: tuple[int, int] | None = None
    """… of the depth images."""

    def color_camera(self) -> Calibration:
        """Of the colour pictures."""
        return Calibration(self.color_K, self.color_size, self.color_extrinsic)

    def depth_camera(self) -> Calibration | None:
        """Of the depth images; None: the colour camera."""
        if self.depth_K is None:
            return None
        return Calibration(self.depth_K, self.depth_size, self.depth_extrinsic)


def find_posed_images(folder: Path, color_camera: Calibration | None = None) -> PosedImages:
    """The posed images in `folder`, in either layout of export.

    - `00000.jpg`, `00000.png` (or `00000.rendered_depth_WxH.png`), `00000.txt`, `intrinsic.txt` and,
      optionally, `intrinsic_depth.txt`;
    - `color/0.jpg`, `depth/0.png`, `pose/0.txt`, with `intrinsic_color.txt`, `intrinsic_depth.txt`,
      optionally `extrinsic_color.txt`, `extrinsic_depth.txt` in `intrinsic/` or, under the names
      `intrinsics_color.txt` …, beside (`scannet_frames_25k`). The folders may have other names that are
      usual, such as rgb/ and poses/, and their files words around the number (frame-000000.txt) or, all
      of them, times (1305031102.175304.txt).

    Colour may be .png too; a camera's file may name the size it is for (intrinsic_color_640x480.txt).
    Frames are those that have a pose file, in the order of their numbers.

    Args:
        color_camera: in place of the folder's two; depth is registered to colour then.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected the scan's posed images there")
    exported = folder_called(folder, POSE_FOLDERS)
    found = sorted((exported or folder).glob("[0-9]*.txt"))
    if exported is not None and not (found and all(path.stem.isdecimal() for path in found)):
        poses = numbered(exported, (".txt",))
    else:
        poses = by_number([(_frame_number(path), path) for path in found], (".txt",))
    if not poses:
        raise InputError(
            f"{folder}: holds no posed image; expected 00000.jpg, 00000.png, 00000.txt and "
            "intrinsic.txt, or the folders color/, depth/, pose/ and intrinsic/ of an export from .sens"
            f"; found {entries(folder)}"
        )
    depth_camera = None
    if color_camera is None:
        depth_file = _camera_file(folder, DEPTH_CAMERA)
        depth_camera = _read_camera(depth_file) if depth_file else None
        color_file = _camera_file(folder, COLOR_CAMERA)
        if color_file is None:
            expected = folder / ("intrinsic/intrinsic_color.txt" if exported else "intrinsic.txt")
            raise InputError(
                f"{expected}: missing; the posed images need the colour camera's intrinsics"
            )
        color_camera = _read_camera(color_file)
    return PosedImages(
        folder=folder,
        frames=_exported_frames(folder, poses) if exported else _flat_frames(folder, poses),
        color_K=color_camera.K,
        depth_K=depth_camera.K if depth_camera else None,
        color_extrinsic=_read_extrinsic(_camera_file(folder, ("extrinsic_color.txt",))),
        depth_extrinsic=_read_extrinsic(_camera_file(folder, ("extrinsic_depth.txt",))),
        color_size=color_camera.size,
        depth_size=depth_camera.size if depth_camera else None,
    )


def pose_is_lost(frame: Frame) -> bool:
    """Whether ScanNet's tracking lost this frame: it writes a pose of −inf then."""
    return not np.isfinite(read_matrix(frame.pose)).all()


def folder_called(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a folder in `folder`, in small letters or not."""
    there = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((there[name] for name in names if name in there), None)


def _exported_frames(folder: Path, poses: dict[int, Path]) -> list[Frame]:
    color = folder_called(folder, COLOR_FOLDERS) or folder / COLOR_FOLDERS[0]
    depth = folder_called(folder, DEPTH_FOLDERS) or folder / DEPTH_FOLDERS[0]
    colors = _by_number(color, COLOR_ENDINGS) or numbered(color, COLOR_ENDINGS)
    depths = _by_number(depth, DEPTH_ENDINGS) or numbered(depth, DEPTH_ENDINGS)
    if not depths:
        _check_no_other_depth(depth)
    _check_counting(folder, colors, depths, poses)
    return [
        Frame(
            pose.stem,
            colors.get(number, color / f"{pose.stem}.jpg"),
            depths.get(number, depth / f"{pose.stem}.png") if depths else None,
            pose,
        )
        for number, pose in poses.items()
    ]


def _check_counting(
    folder: Path, colors: dict[int, Path], depths: dict[int, Path], poses: dict[int, Path]
) -> None:
    """InputError where pictures are counted from another number on than poses."""
    check_shift(folder, colors, poses, ("colour pictures", "poses"))
    check_shift(folder, depths, poses, ("depth pictures", "poses"))


def _check_no_other_depth(folder: Path) -> None:
    """InputError for depth in another format: it would be left out, and rendered in its place."""
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in found if re.fullmatch(r"[A-Za-z_-]*\d+", name.partition(".")[0])]
    if others:
        raise InputError(
            f"{folder}: holds {listing(others, 3)}, which are no depth images; expected "
            f"{', '.join(DEPTH_ENDINGS)}, of 16 bits or of floats: convert them, or take the "
            "folder away to have depth rendered from the mesh"
        )


def _flat_frames(folder: Path, poses: dict[int, Path]) -> list[Frame]:
    """Colour and depth side by side: what is .png is depth, unless it alone is there and is coloured."""
    colors = _by_number(folder, [ending for ending in COLOR_ENDINGS if ending not in DEPTH_ENDINGS])
    depths = _by_number(folder, DEPTH_ENDINGS)
    if not colors and depths and not _is_depth(next(iter(depths.values()))):
        colors, depths = depths, {}
    depths |= {
        int(path.name.partition(".")[0]): path
        for path in sorted(folder.glob("[0-9]*.rendered_depth_*.png"), reverse=True)
        if path.name.partition(".")[0].isdecimal()
    }
    _check_counting(folder, colors, depths, poses)
    return [
        Frame(
            pose.stem,
            colors.get(number, pose.with_suffix(".jpg")),
            depths.get(number, pose.with_suffix(".png")) if depths else None,
            pose,
        )
        for number, pose in poses.items()
    ]


def _is_depth(path: Path) -> bool:
    try:
        return image_mode(path) in GREY_DEPTH
    except InputError:
        return True  # reading it says what is wrong with it


def _by_number(folder: Path, endings: tuple[str, ...] | list[str]) -> dict[int, Path]:
    """Frame number → its file, of the first ending that it has, of names that are a number alone."""
    if not folder.is_dir():
        return {}
    found = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in endings and p.stem.isdecimal())
    return by_number([(int(path.stem), path) for path in found], endings)


def _camera_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of `names` in the folders that exporters put cameras in; None where there is none."""
    for below in CAMERA_FOLDERS:
        place = folder / below
        for name in names:
            sized = place.glob(f"{Path(name).stem}_[0-9]*x[0-9]*.txt")
            found = [path for path in (place / name, *sorted(sized)) if path.is_file()]
            if found:
                return found[0]
    return None


def _read_camera(path: Path) -> Calibration:
    found = read_calibration(path)
    return replace(found, size=_size_in_name(path) or found.size)


def _size_in_name(path: Path) -> tuple[int, int] | None:
    match = re.search(r"_([1-9]\d{0,4})x([1-9]\d{0,4})$", path.stem)
    return (int(match[1]), int(match[2])) if match else None


def _read_extrinsic(path: Path | None) -> np.ndarray:
    return np.eye(4) if path is None else check_pose(read_pose(path), path)


def _frame_number(path: Path) -> int:
    if not path.stem.isdecimal():
        raise InputError(f"{path}: expected a frame number as the file's name, like 00000.txt")
    return int(path.stem)
