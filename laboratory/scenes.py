"""Faults of scene folders: what recordings, exports and copies do to them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from laboratory.faults import Injection, Site

SceneEdit = Callable[[Path], None]
"""Changes the scene in a folder."""


@dataclass(frozen=True)
class EditedScene(Injection):
    """The victim's folder, or every scene's to train on, changed before the run goes on."""

    edit: SceneEdit
    everywhere: bool = False

    def edit_scenes(self, root: Path, site: Site) -> None:
        folders = (
            sorted((root / "train").iterdir()) if self.everywhere else [root / "train" / site.victim]
        )
        for folder in folders:
            self.edit(folder)


# -------------------------------------------------------------------------------------- files


def cut_short(pattern: str, share: float = 0.5) -> SceneEdit:
    """Files of which a copy that was interrupted kept a part."""

    def edit(folder: Path) -> None:
        for path in folder.glob(pattern):
            content = path.read_bytes()
            path.write_bytes(content[: int(len(content) * share)])

    return edit


def overwritten(pattern: str) -> SceneEdit:
    """Files whose beginning a disk has lost: bytes of 0."""

    def edit(folder: Path) -> None:
        for path in folder.glob(pattern):
            content = path.read_bytes()
            path.write_bytes(bytes(min(512, len(content))) + content[512:])

    return edit


def removed(*patterns: str) -> SceneEdit:
    """Files or folders that are not there."""

    def edit(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return edit


def array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> SceneEdit:
    """One array, changed."""

    def edit(folder: Path) -> None:
        path = folder / f"{name}.npy"
        np.save(path, change(np.load(path)))

    return edit


def nan_in(values: np.ndarray) -> np.ndarray:
    """The array as floats, one of them NaN."""
    changed = values.astype(np.float32)
    changed[len(changed) // 3, 0] = np.nan
    return changed


# -------------------------------------------------------------------------------------- cameras


def cameras(change: Callable[[dict[str, np.ndarray]], None]) -> SceneEdit:
    """`views/cameras.npz`, changed."""

    def edit(folder: Path) -> None:
        path = folder / "views" / "cameras.npz"
        with np.load(path) as stored:
            fields = dict(stored)
        change(fields)
        np.savez(path, **fields)

    return edit


def twice_the_focal_length(fields: dict[str, np.ndarray]) -> None:
    """Intrinsics of a longer lens: plausible by themselves."""
    for key in ("color_K", "depth_K"):
        fields[key][:, [0, 1], [0, 1]] *= 2


def of_another_size(fields: dict[str, np.ndarray]) -> None:
    """Intrinsics of an image twice as large."""
    fields["color_K"][:, :2] *= 2


def inverted_poses(fields: dict[str, np.ndarray]) -> None:
    """World-to-camera stored as camera-to-world: rigid, and wrong."""
    for key in ("color_cam2world", "depth_cam2world"):
        fields[key] = np.linalg.inv(fields[key])


def mirrored_poses(fields: dict[str, np.ndarray]) -> None:
    """Poses of a left-handed system."""
    for key in ("color_cam2world", "depth_cam2world"):
        fields[key][:, :3, 0] *= -1


def lost_poses(fields: dict[str, np.ndarray]) -> None:
    """What ScanNet writes where tracking was lost."""
    fields["color_cam2world"][:] = -np.inf


def poses_elsewhere(fields: dict[str, np.ndarray]) -> None:
    """Poses of a frame whose origin lies 50 m away."""
    for key in ("color_cam2world", "depth_cam2world"):
        fields[key][:, :2, 3] += 50


def turned_away(fields: dict[str, np.ndarray]) -> None:
    """Cameras turned by half a turn about their own vertical axis."""
    for key in ("color_cam2world", "depth_cam2world"):
        fields[key][:, :3, [0, 2]] *= -1


# -------------------------------------------------------------------------------------- images


def images(suffix: str, change: Callable[[Image.Image], Image.Image]) -> SceneEdit:
    """Every colour ("jpg") or depth ("png") image of the scene, changed."""

    def edit(folder: Path) -> None:
        for path in sorted((folder / "views").glob(f"*.{suffix}")):
            with Image.open(path) as image:
                changed = change(image)
            changed.save(path, quality=95, subsampling=0)  # of the jpg; a png has no such numbers

    return edit


def mirrored(image: Image.Image) -> Image.Image:
    return ImageOps.mirror(image)


def unmeasured(depth: Image.Image) -> Image.Image:
    return Image.fromarray(np.zeros_like(np.array(depth)))


def tenfold(depth: Image.Image) -> Image.Image:
    """Depth in tenths of a millimetre."""
    values = np.array(depth).astype(np.int64) * 10
    return Image.fromarray(np.where(values > 65534, 0, values).astype(np.uint16))


def images_of_another_scene(folder: Path) -> None:
    """Colour images of the neighbour's recording under this scene's names."""
    scenes = sorted(folder.parent.iterdir())
    other = scenes[(scenes.index(folder) + 1) % len(scenes)]
    for path in sorted((folder / "views").glob("*.jpg")):
        shutil.copy(other / "views" / path.name, path)


# ---------------------------------------------------------------------------- poor but sound scenes


def fragment(keep: Callable[[np.ndarray], np.ndarray]) -> SceneEdit:
    """A scan of a few points; `keep` takes coordinates (N, 3) and gives rows. Without views, as those of
    the whole room would contradict it."""

    def edit(folder: Path) -> None:
        rows = keep(np.load(folder / "coord.npy"))
        for name in ("coord", "color", "normal", "segment20", "instance"):
            path = folder / f"{name}.npy"
            np.save(path, np.load(path)[rows])
        superpoint = np.load(folder / "superpoint.npy")[rows]
        compact = np.unique(superpoint, return_inverse=True)[1]
        np.save(folder / "superpoint.npy", compact.astype(np.int32))
        shutil.rmtree(folder / "views")

    return edit


def within_a_centimetre(coord: np.ndarray) -> np.ndarray:
    """The first point and what lies within a centimetre of it, a voxel's worth."""
    return np.flatnonzero(np.abs(coord - coord[0]).max(axis=1) < 0.01)


def moved_far(folder: Path) -> None:
    """A scene in map coordinates, 3 km from their origin, its cameras with it."""
    array("coord", lambda coord: (coord + np.float32(3000)).astype(np.float32))(folder)

    def move(fields: dict[str, np.ndarray]) -> None:
        for key in ("color_cam2world", "depth_cam2world"):
            fields[key][:, :3, 3] += 3000

    cameras(move)(folder)


def one_instance(folder: Path) -> None:
    """A room in which a single object was annotated."""
    instance, segment = np.load(folder / "instance.npy"), np.load(folder / "segment20.npy")
    things = instance[(instance >= 0) & (segment > 1)]
    chosen = np.bincount(things).argmax()
    np.save(folder / "instance.npy", np.where(instance == chosen, instance, -1).astype(np.int32))


def seen_by_no_view(folder: Path) -> None:
    """Cameras that look away from the scene and measure nothing there."""
    cameras(turned_away)(folder)
    images("png", unmeasured)(folder)
