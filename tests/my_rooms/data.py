"""Scenes in a layout of one's own: root/split/NAME.npz, views and all in one file."""

from pathlib import Path

import numpy as np

from bifusion.types import Scene, View

CAMERA = ("color", "depth_m", "color_K", "depth_K", "color_cam2world", "depth_cam2world")


class Rooms:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [path.stem for path in folder.glob("*.npz")]

    def scene(self, name: str) -> Scene:
        with np.load(self.folder / f"{name}.npz") as file:
            return Scene(
                name=name,
                coord=file["xyz"],
                color=file["rgb"],
                superpoint=file["superpoint"],
                segment=file["classes"],
                instance=file["objects"],
                view_names=[str(view) for view in file["views"]],
            )

    def view(self, scene: str, view: str) -> View:
        with np.load(self.folder / f"{scene}.npz") as file:
            return View(view, *(file[f"{view}.{part}"] for part in CAMERA))


def scenes(root: Path, split: str) -> Rooms:
    return Rooms(root / split)


class Wrong(Rooms):
    """Mistakes: a scene that is none, a view that is none."""

    def scene(self, name: str) -> Scene:
        return vars(super().scene(name))  # type: ignore[return-value]


def wrong_scenes(root: Path, split: str) -> Rooms:
    return Wrong(root / split)


def no_scenes(root: Path, split: str) -> dict:
    return {}
