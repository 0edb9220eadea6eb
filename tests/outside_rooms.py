"""Tiny rooms in the layout of `my_rooms.data`: one .npz a scene."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bifusion.data.scene_folder import load_scene
from bifusion.data.view_files import load_view
from bifusion.labels.sets import SCANNET20
from my_rooms.data import CAMERA
from scene_factory import make_tiny_scene


def make_own_rooms(root: Path, *, train: int, val: int) -> Path:
    """root/train and root/val; returns `root`."""
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True)
        for index in range(count):
            _make_room(root / split / f"room{split}{index}.npz", seed=100 * count + index)
    return root


def _make_room(path: Path, seed: int) -> None:
    with TemporaryDirectory() as folder:
        made = make_tiny_scene(Path(folder) / path.stem, seed=seed)
        scene = load_scene(made, SCANNET20)
        views = {name: load_view(made, name) for name in scene.view_names}
        np.savez(
            path,
            xyz=scene.coord,
            rgb=scene.color,
            superpoint=scene.superpoint,
            classes=np.asarray(scene.segment),
            objects=np.asarray(scene.instance),
            views=np.array(scene.view_names),
            **{f"{name}.{part}": getattr(v, part) for name, v in views.items() for part in CAMERA},
        )
