"""The RGB-D views of a scene folder: images, depth maps and their cameras (format: CONVENTIONS.md)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bifusion.data.checks import check_intrinsics, check_pose, check_poses, check_view, off_centre
from bifusion.errors import InputError
from bifusion.storage.files import filled_in_memory
from bifusion.types import View
from bifusion.untrusted.arrays import load_npz
from bifusion.untrusted.files import is_leftover, open_regular
from bifusion.untrusted.pictures import DEPTH_SCALE, image_size, read_color, read_depth_m

JPEG_QUALITY = 95
MOST_NAME_BYTES = 200
"""Of a view's name: file systems take 255, with the ending and what is written beside."""
MOST_CAMERA_BYTES = 256 << 20
"""Of cameras.npz; a view takes half a kilobyte."""

QUARTER_TURNS = (5, 6, 7, 8)
"""Orientation tags with which width and height change places."""

EACH_VIEW_A_NAME = "give each view a name of its own"

CAMERA_SHAPES = {
    "color_K": (3, 3), "depth_K": (3, 3), "color_cam2world": (4, 4), "depth_cam2world": (4, 4),
    "color_size": (2,), "depth_size": (2,),
}  # fmt: skip


@dataclass
class Cameras:
    """`views/cameras.npz`: the cameras of all V views of a scene."""

    path: Path
    names: list[str]
    color_K: np.ndarray
    """(V, 3, 3) float64, like depth_K."""
    depth_K: np.ndarray
    color_cam2world: np.ndarray
    """(V, 4, 4) float64, like depth_cam2world."""
    depth_cam2world: np.ndarray
    color_size: np.ndarray
    """(V, 2) int64 width, height; like depth_size."""
    depth_size: np.ndarray


def has_views(folder: Path) -> bool:
    """Whether a scene folder has views, be it that their cameras are lost: `load_cameras` tells that."""
    views = Path(folder) / "views"
    return views.is_dir() and any(not is_leftover(path) for path in views.iterdir())


def load_cameras(folder: Path) -> Cameras:
    """The cameras of a scene's views, all of them checked.

    All, as a run that draws its views would otherwise fail by its seed, or never, on a bad one. Raises
    InputError as `read_cameras`, and where a pose is no rigid transform: such views are to be mended or
    left out of the files, for nothing here can tell what is right.
    """
    cameras = read_cameras(folder)
    for camera in ("colour", "depth"):
        poses = cameras.color_cam2world if camera == "colour" else cameras.depth_cam2world
        check_poses(poses, cameras.names, cameras.path, f"{camera} camera")
    return cameras


def read_cameras(folder: Path) -> Cameras:
    """The cameras of a scene's views; InputError where a field is missing or misshapen."""
    path = Path(folder) / "views" / "cameras.npz"
    stored = _read_fields(path)
    missing = [key for key in ("names", *CAMERA_SHAPES) if key not in stored]
    if missing:
        raise InputError(
            f"{path}: lacks {', '.join(missing)}; expected names, {', '.join(CAMERA_SHAPES)}; "
            "prepare the scene again"
        )
    names = [str(name) for name in stored["names"].ravel()]
    if len(set(names)) != len(names):
        raise InputError(f"{path}: names are {', '.join(names)}; {EACH_VIEW_A_NAME}")
    for key, shape in CAMERA_SHAPES.items():
        array = stored[key]
        if array.shape != (len(names), *shape):
            raise InputError(
                f"{path}: {key} has shape {array.shape}; expected {(len(names), *shape)}; "
                "prepare the scene again"
            )
        if array.dtype.kind not in "iuf":
            raise InputError(f"{path}: {key} holds {array.dtype}; expected numbers; prepare it again")
    return Cameras(
        path=path,
        names=names,
        color_K=stored["color_K"].astype(np.float64),
        depth_K=stored["depth_K"].astype(np.float64),
        color_cam2world=stored["color_cam2world"].astype(np.float64),
        depth_cam2world=stored["depth_cam2world"].astype(np.float64),
        color_size=stored["color_size"].astype(np.int64),
        depth_size=stored["depth_size"].astype(np.int64),
    )


def _read_fields(path: Path) -> dict[str, np.ndarray]:
    """Every array of cameras.npz."""
    missing = "missing; a scene with views needs it, prepare the scene again"
    return load_npz(
        path, most_bytes=MOST_CAMERA_BYTES, missing=missing, advice="prepare the scene again"
    )


def load_view(folder: Path, view_name: str, cameras: Cameras | None = None) -> View:
    """View `view_name` of the scene in `folder`, strictly checked.

    Args:
        folder: scene folder.
        view_name: one of `Scene.view_names`.
        cameras: `load_cameras(folder)` if at hand, so that it is not read again.
    Raises:
        InputError: unknown view, undecodable or missing image or depth, an image of another size
            than its cameras were stored for, a pose that is not rigid, wrong intrinsics.
    """
    cameras = cameras or load_cameras(folder)
    if view_name not in cameras.names:
        known = ", ".join(cameras.names) or "no view"
        raise InputError(f"{cameras.path}: has no view {view_name!r}; it has {known}")
    row = cameras.names.index(view_name)
    color, depth_m = load_color(cameras, row), load_depth_m(cameras, row)
    where = f"{cameras.path}: view {view_name}"
    return View(
        name=view_name,
        color=color,
        depth_m=depth_m,
        color_K=check_intrinsics(cameras.color_K[row], image_size(color), f"{where}, colour camera"),
        depth_K=check_intrinsics(cameras.depth_K[row], image_size(depth_m), f"{where}, depth camera"),
        color_cam2world=check_pose(cameras.color_cam2world[row], f"{where}, colour camera"),
        depth_cam2world=check_pose(cameras.depth_cam2world[row], f"{where}, depth camera"),
    )


def picture_path(cameras: Cameras, name: str) -> Path:
    """The file of a view's picture."""
    return cameras.path.parent / f"{name}.jpg"


def load_color(cameras: Cameras, row: int) -> np.ndarray:
    """(H, W, 3) uint8 picture of the view in `row`; InputError as `load_view`."""
    path = picture_path(cameras, cameras.names[row])
    color = read_color(path)
    _check_size(path, color, cameras.color_size[row])
    return color


def load_depth_m(cameras: Cameras, row: int) -> np.ndarray:
    """(H, W) float32 metres, the depth of the view in `row`; InputError as `load_view`."""
    path = cameras.path.parent / f"{cameras.names[row]}.png"
    depth_m = read_depth_m(path)
    _check_size(path, depth_m, cameras.depth_size[row])
    return depth_m


def write_views(
    folder: Path, views: Iterable[View], pictures: Mapping[str, Path] | None = None
) -> list[str]:
    """Write `views` under `folder`/views after a full check; the names written, in order.

    Views are consumed one at a time, so a generator may render or decode them as it goes. Depth is
    rounded to millimetres; what lies beyond 65.534 m is stored as not measured. `pictures`: by view the
    JPEG that its colours were read from, which is taken over, as saving it again would change it.
    """
    stored = pictures or {}
    target = Path(folder) / "views"
    fields: dict[str, list] = {key: [] for key in ("names", *CAMERA_SHAPES)}
    for view in views:
        check_view_name(view.name)
        check_view(view, f"{folder}: view {view.name}")
        if view.name in fields["names"]:
            raise InputError(f"{folder}: two views are called {view.name!r}; {EACH_VIEW_A_NAME}")
        target.mkdir(parents=True, exist_ok=True)
        with filled_in_memory(target / f"{view.name}.jpg") as file:
            if view.name in stored:
                with open_regular(stored[view.name]) as picture:
                    shutil.copyfileobj(picture, file)
            else:
                Image.fromarray(view.color).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        millimetres = np.rint(view.depth_m.astype(np.float64) * DEPTH_SCALE)
        millimetres[millimetres > 65534] = 0
        with filled_in_memory(target / f"{view.name}.png") as file:
            Image.fromarray(millimetres.astype(np.uint16)).save(file, "PNG")
        fields["names"].append(view.name)
        for key in CAMERA_SHAPES:
            image = view.color if key == "color_size" else view.depth_m
            fields[key].append(image_size(image) if key.endswith("size") else getattr(view, key))
    if fields["names"]:
        np.savez(
            target / "cameras.npz",
            names=np.asarray(fields["names"]),
            color_K=np.asarray(fields["color_K"]),
            depth_K=np.asarray(fields["depth_K"]),
            color_cam2world=np.asarray(fields["color_cam2world"]),
            depth_cam2world=np.asarray(fields["depth_cam2world"]),
            color_size=np.asarray(fields["color_size"]),
            depth_size=np.asarray(fields["depth_size"]),
        )
    return fields["names"]


def check_view_name(name: str) -> None:
    """InputError for a name that cannot be a file's in views/."""
    plain = name and Path(name).name == name and "\0" not in name and not name.startswith(".")
    if not plain or len(os.fsencode(name)) > MOST_NAME_BYTES:
        raise InputError(
            f"views: a view is called {name[:80]!r}; expected a file name without / or ending, that "
            f"does not begin with a dot, of {MOST_NAME_BYTES} bytes at most"
        )


def check_turned(path: Path, tag: int, K: np.ndarray, size: tuple[int, int]) -> None:
    """InputError if a picture, of `size` (width, height) when upright, was given a quarter turn by its
    orientation tag, but its intrinsics (3, 3) are those of the picture as it is stored."""
    as_stored = (size[1], size[0])
    if tag in QUARTER_TURNS and off_centre(K, as_stored) < off_centre(K, size):
        raise InputError(
            f"{path}: its orientation tag ({tag}) makes it {size[0]}×{size[1]} pixels, but the "
            f"intrinsics fit the {as_stored[0]}×{as_stored[1]} that are stored; give the intrinsics of "
            "the upright picture, or remove the tag from the files"
        )


def _check_size(path: Path, image: np.ndarray, expected: np.ndarray) -> None:
    found = image_size(image)
    if found != (int(expected[0]), int(expected[1])):
        raise InputError(
            f"{path}: is {found[0]}×{found[1]} pixels but its cameras were stored for "
            f"{expected[0]}×{expected[1]}; intrinsics belong to one image size: prepare the scene again"
        )
