"""Small inputs for every kind of `bifusion prepare`, and the arguments that prepare them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from room_meshes import permuted, room_mesh, write_ply
from scene_factory import make_tiny_scene

TINY_ROOMS = (
    "--train-rooms", "2", "--val-rooms", "1", "--views", "1", "--point-spacing-m", "0.15",
    "--image-size", "64", "48", "--depth-size", "64", "48",
)  # fmt: skip


@dataclass(frozen=True)
class Preparation:
    """What `bifusion prepare KIND` is called with; paths are relative to `root`."""

    arguments: list[str]
    scene: Path
    """One of the scene folders that it makes."""


def scan(root: Path, count: int = 1) -> Preparation:
    """`count` clouds of one room, in files of their own, made in two processes where there are two."""
    arguments = ["scan", *_rooms(root, count), "--out", "out", "--jobs", "2"]
    return Preparation(arguments, Path("out/room0"))


def scannet(root: Path, count: int = 1) -> Preparation:
    """Scans of the test split, without posed images."""
    for number, file in enumerate(_rooms(root, count)):
        folder = root / "scans" / f"room{number}"
        folder.mkdir(parents=True)
        shutil.move(root / file, folder / f"room{number}_vh_clean_2.ply")
        alignment = " ".join(map(str, np.eye(4).ravel()))
        (folder / f"room{number}.txt").write_text(f"axisAlignment = {alignment}\n")
    (root / "splits").mkdir()
    names = "".join(f"room{number}\n" for number in range(count))
    (root / "splits" / "scannetv2_test.txt").write_text(names)
    (root / "labels.tsv").write_text("id\traw_category\tnyu40id\n1\twall\t1\n")
    arguments = ["--scans", "scans", "--labels", "labels.tsv", "--splits", "splits", "--out", "out"]
    return Preparation(["scannet", *arguments], Path("out/test/room0"))


def synthetic(root: Path, count: int = 1) -> Preparation:
    """Three rooms, whatever `count` is."""
    return Preparation(["synthetic", "--out", "out", *TINY_ROOMS], Path("out/train/rooms0_train_0000"))


def superpoints(root: Path, count: int = 1) -> Preparation:
    """Scene folders that have none."""
    for number in range(count):
        scene = make_tiny_scene(root / "out" / "train" / f"room{number}", seed=number)
        (scene / "superpoint.npy").unlink()
    return Preparation(["superpoints", "out"], Path("out/train/room0"))


KINDS: dict[str, Callable[..., Preparation]] = {
    made.__name__: made for made in (scan, scannet, superpoints, synthetic)
}


def _rooms(root: Path, count: int) -> list[str]:
    root.mkdir(parents=True, exist_ok=True)
    names = [f"room{number}.ply" for number in range(count)]
    for number, name in enumerate(names):
        write_ply(root / name, permuted(room_mesh(0.1), seed=number))
    return names
