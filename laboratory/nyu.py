"""Real frames as scene folders: `python -m laboratory.nyu --frames FOLDER --out data/nyu`.

FOLDER holds frames of NYU Depth V2 (Silberman et al., ECCV 2012), an image each with depth, labels and
pseudo-instances: color/, depth/, label/, instance/, two intrinsics files, frames.csv (split), up.csv.
Each becomes a scan of one view: every point is seen once and carries its own pixel's colour. The depth
is re-quantised and instances are connected components, so only semantics are to be judged.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from bifusion.data.scene_folder import write_scene
from bifusion.datasets.orientation.orient import turn_up
from bifusion.datasets.superpoints.normals import mesh_normals
from bifusion.datasets.superpoints.superpoints import graph_superpoints
from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.types import Scene, View
from bifusion.untrusted.pictures import read_color, read_depth_m
from bifusion.untrusted.screen import Screen

SOURCE = "NYU Depth V2 subset, single view, re-quantised depth"
JOINED = 0.05
"""Neighbouring pixels are one surface where their depths differ by less than this share of them."""


@dataclass
class Arguments:
    """Makes scene folders of NYU Depth V2 frames."""

    frames: Path
    """Folder with color/, depth/, label/, instance/, frames.csv and up.csv."""
    out: Path = Path("data/nyu")
    """Gets train/ and val/."""
    train: int = 96
    """Frames to train on, evenly spaced over the split."""
    val: int = 48


def main() -> int:
    wanted, console = tyro.cli(Arguments), Screen()
    splits, ups = _splits(wanted.frames), _ups(wanted.frames)
    for split, count in (("train", wanted.train), ("val", wanted.val)):
        names = splits.get(split, [])
        if not 0 < count <= len(names):
            raise InputError(
                f"--{split} {count}: {wanted.frames / 'frames.csv'} has {len(names)} such frames"
            )
        for place in np.linspace(0, len(names) - 1, count).round().astype(int):
            _write(wanted.frames, names[place], ups[names[place]], wanted.out / split)
        console.print(f"{count} scans in {wanted.out / split}")
    return 0


def _splits(frames: Path) -> dict[str, list[str]]:
    """Split → names of its frames, in the file's order."""
    splits: dict[str, list[str]] = {}
    for row in _rows(frames / "frames.csv"):
        splits.setdefault(row["split"], []).append(f"{int(row['frame']):04d}")
    return splits


def _ups(frames: Path) -> dict[str, np.ndarray]:
    """Frame → (3,) gravity's opposite in camera axes."""
    return {
        f"{int(row['frame']):04d}": np.array([float(row[axis]) for axis in ("ux", "uy", "uz")])
        for row in _rows(frames / "up.csv")
    }


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _write(frames: Path, name: str, up: np.ndarray, split: Path) -> None:
    color, depth_m = read_color(frames / f"color/{name}.jpg"), read_depth_m(frames / f"depth/{name}.png")
    height, width = depth_m.shape
    cam2world = np.eye(4)
    cam2world[:3, :3] = turn_up(up)
    color_K = np.loadtxt(frames / f"intrinsics_color_{color.shape[1]}x{color.shape[0]}.txt")
    depth_K = np.loadtxt(frames / f"intrinsics_depth_{width}x{height}.txt")
    surface_m = on_surfaces(depth_m)
    v, u = np.nonzero(surface_m)
    rays = np.stack([u, v, np.ones_like(u)], axis=1) @ np.linalg.inv(depth_K).T
    coord = (rays * depth_m[v, u, None] @ cam2world[:3, :3].T).astype(np.float32)
    normal = mesh_normals(coord, surface_faces(surface_m)).astype(np.float32)
    point_color = _at(color, v, u, depth_m)
    label, instance = (
        _at(np.asarray(Image.open(frames / kind / f"{name}.png")), v, u, depth_m)
        for kind in ("label", "instance")
    )
    scene = Scene(
        name=f"nyu{name}",
        coord=coord,
        color=point_color,
        normal=normal,
        superpoint=graph_superpoints(coord, normal, point_color, edges=surface_edges(surface_m)),
        instance=instance.astype(np.int32) - 1,  # 0 is none
    )
    view = View("0000", color, depth_m, color_K, depth_K, cam2world, cam2world)
    segments = {SCANNET20: to_classes(label)}
    write_scene(split / scene.name, scene, segments=segments, views=[view], source=SOURCE)


def to_classes(nyu40: np.ndarray) -> np.ndarray:
    """Class of ScanNet20 for each id of NYU40, −1 for what has none."""
    table = np.full(256, -1, np.int16)
    table[list(SCANNET20.source_ids)] = np.arange(SCANNET20.num_classes)
    return table[nyu40]


def _at(image: np.ndarray, v: np.ndarray, u: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
    """What an image of the depth image's size, or a multiple of it, shows at depth pixels (u, v)."""
    times = image.shape[0] // depth_m.shape[0]
    return image[v * times, u * times]


def on_surfaces(depth_m: np.ndarray) -> np.ndarray:
    """The depth image, 0 also where a pixel is of no triangle: such a point has no normal."""
    kept = np.zeros_like(depth_m)
    used = np.flatnonzero(depth_m)[np.unique(surface_faces(depth_m))]
    kept.flat[used] = depth_m.flat[used]
    return kept


def surface_edges(depth_m: np.ndarray) -> np.ndarray:
    """(E, 2) pairs of neighbouring measured pixels of one surface, as places among the measured ones."""
    number = _numbers(depth_m)
    pairs = []
    for here, there in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
    ):
        joined = _joined(depth_m[here], depth_m[there])
        pairs.append(np.stack([number[here][joined], number[there][joined]], axis=1))
    return np.concatenate(pairs)


def surface_faces(depth_m: np.ndarray) -> np.ndarray:
    """(F, 3) triangles between neighbouring measured pixels of one surface, seen from the camera."""
    number = _numbers(depth_m)
    corner = [np.s_[:-1, :-1], np.s_[1:, :-1], np.s_[1:, 1:], np.s_[:-1, 1:]]
    faces = []
    for a, b, c in ((0, 1, 2), (0, 2, 3)):
        z = [depth_m[corner[i]] for i in (a, b, c)]
        joined = _joined(z[0], z[1]) & _joined(z[1], z[2]) & _joined(z[2], z[0])
        faces.append(np.stack([number[corner[i]][joined] for i in (a, b, c)], axis=1))
    return np.concatenate(faces)


def _numbers(depth_m: np.ndarray) -> np.ndarray:
    measured = depth_m > 0
    return np.where(measured, np.cumsum(measured).reshape(depth_m.shape) - 1, -1)


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    nearer = np.minimum(one, other)
    return (nearer > 0) & (np.abs(one - other) < JOINED * nearer)


if __name__ == "__main__":
    sys.exit(main())
