"""Scans of any number of voxels, with views: a real scan, or a generated room, repeated side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from benchmarks.scenes import real_data
from bifusion.data.open_scene import OpenScene, open_folder
from bifusion.data.scene_folder import scene_complete, write_scene
from bifusion.data.voxels import voxelize
from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.datasets.rooms.rooms import make_room
from bifusion.datasets.scannet.prepare import prepare_scannet
from bifusion.datasets.scannet.views import ViewOptions
from bifusion.types import Scene, View

VOXEL_M = 0.02
GAP_M = 1.0
"""Between neighbouring copies: no voxel has neighbours in two."""
VIEWS = 16
"""As many at least; where the scan has fewer they come again under other names."""
IMAGE = (640, 480)


def scan_of(voxels: int, out: Path) -> Path:
    """The scene folder out/real-VOXELS, or rooms-VOXELS where the real scan is missing, written if it is
    not there: about so many voxels of 2 cm."""
    folder = out / f"{'rooms' if real_data() is None else 'real'}-{voxels}"
    if scene_complete(folder):
        return folder
    tile, source = _tile(out)
    count = math.ceil(voxels / _count(tile.coord))
    scene, places = cropped(repeated(tile, count), voxels), _places(tile.coord, count)
    views = islice(_views(tile, places), max(VIEWS, len(tile.views) * count))
    write_scene(folder, scene, segments={}, views=views, source=f"{count} × {source}")
    return folder


def repeated(tile: Scene, count: int) -> Scene:
    """`count` copies of the scan on a square grid, each with superpoints of its own."""
    places, superpoints = _places(tile.coord, count), int(tile.superpoint.max()) + 1
    return Scene(
        name=tile.name,
        coord=np.concatenate([tile.coord + place for place in places]).astype(np.float32),
        color=np.tile(tile.color, (count, 1)),
        superpoint=np.concatenate([tile.superpoint + copy * superpoints for copy in range(count)]),
    )


def cropped(scene: Scene, voxels: int) -> Scene:
    """The part of the scan with the smallest x that has so many voxels."""
    found = voxelize(scene.coord, VOXEL_M)
    order = np.argsort(found.coords[:, 0], kind="stable")
    kept = np.zeros(len(found.coords), bool)
    kept[order[:voxels]] = True
    inside = kept[found.point_to_voxel]
    superpoint = np.unique(scene.superpoint[inside], return_inverse=True)[1].astype(np.int32)
    return Scene(scene.name, scene.coord[inside], scene.color[inside], superpoint)


def _tile(out: Path) -> tuple[OpenScene, str]:
    """One scan with views, and what it is."""
    data = real_data()
    if data is None:
        config = RoomsConfig(point_spacing_m=VOXEL_M, image_size=IMAGE, depth_size=IMAGE)
        scene, views = make_room(config, "val", 0)
        by_name = {view.name: view for view in views}
        return OpenScene(**{**vars(scene), "view_names": list(by_name)}, views=by_name), "generated room"
    scannet = data / "scannet"
    prepare_scannet(
        scannet / "scans",
        out / "real",
        labels=scannet / "meta" / "scannetv2-labels.combined.tsv",
        posed_images=scannet / "posed_images",
        view_options=ViewOptions(long_side=IMAGE[0]),
    )
    (folder,) = (out / "real" / "train").glob("[!.]*")
    return open_folder(folder), folder.name


def _places(coord: np.ndarray, count: int) -> np.ndarray:
    """(count, 3) metres: where the copies go."""
    side = math.ceil(math.sqrt(count))
    size = np.ptp(coord[:, :2], axis=0) + GAP_M
    cells = np.array([divmod(copy, side) for copy in range(count)])
    return np.column_stack([cells * size, np.zeros(count)])


def _views(tile: OpenScene, places: np.ndarray) -> Iterator[View]:
    """The views of every copy, over and over."""
    copies = [(name, place) for place in places for name in tile.view_names]
    for number, (name, place) in enumerate(cycle(copies)):
        view = tile.views[name]
        poses = [view.color_cam2world.copy(), view.depth_cam2world.copy()]
        for pose in poses:
            pose[:3, 3] += place
        yield replace(view, name=f"{number:04d}", color_cam2world=poses[0], depth_cam2world=poses[1])


def _count(coord: np.ndarray) -> int:
    return len(voxelize(np.asarray(coord), VOXEL_M).coords)
