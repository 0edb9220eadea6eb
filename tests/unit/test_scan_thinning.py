"""Dense clouds are searched at one point a cell, and labelled at all points."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import room_meshes as rooms
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.scan.make import make_scan
from bifusion.datasets.scan.options import SPACING_M, ScanOptions
from bifusion.datasets.scan.thinning import CELLS_A_SPACING, thinned_cloud

NO_FACES = np.zeros((0, 3), np.int64)
EDGE_M = SPACING_M / CELLS_A_SPACING


def dense_cloud(copies: int, spread_m: float = 0.004) -> Mesh:
    """Each vertex of the room so many times, not quite in the same place."""
    mesh = rooms.room_mesh(0.05)
    coord = np.repeat(mesh.coord, copies, axis=0)
    coord = coord + np.random.default_rng(0).normal(0, spread_m, coord.shape)
    return Mesh(coord, np.repeat(mesh.color, copies, axis=0), NO_FACES)


def test_a_cell_has_the_mean_of_its_points() -> None:
    coord = np.array([[0, 0, 0], [0.01, 0, 0], [0.5, 0, 0], [0.505, 0.01, 0], [9e8, 0, 0], [9e8, 0, 0]])
    color = np.array([[0, 0, 0], [100, 50, 0], [7, 7, 7], [8, 7, 7], [1, 2, 3], [1, 2, 3]], np.uint8)
    normal = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, -1], [np.nan] * 3, [1.0, 0, 0]])
    found = thinned_cloud(Mesh(coord, color, NO_FACES, normal), SPACING_M)
    assert found is not None and found.cell.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.allclose(found.cloud.coord, [[0.005, 0, 0], [0.5025, 0.005, 0], [9e8, 0, 0]])
    assert found.cloud.color[0].tolist() == [50, 25, 0] and found.cloud.normal is not None
    assert found.cloud.normal.tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert thinned_cloud(Mesh(coord[::2], color[::2], NO_FACES), SPACING_M) is None


def test_a_dense_cloud_is_searched_thinned(tmp_path: Path) -> None:
    """Where neighbours of a point are millimetres away, they lie within the noise of the surface."""
    dense = dense_cloud(12)
    made = make_scan(rooms.write_ply(tmp_path / "dense.ply", dense), ScanOptions(up="z"))
    assert any("dense cloud" in line for line in made.lines)
    assert np.array_equal(made.coord, dense.coord) and len(made.scene.coord) == len(dense.coord)
    floor = np.abs(made.scene.coord[:, 2] - np.median(made.scene.coord[:, 2].clip(max=0.02))) < 0.02
    assert made.scene.normal is not None
    assert np.median(np.abs(made.scene.normal[floor, 2])) > 0.98
    cube = np.floor((dense.coord - dense.coord.min(axis=0)) / EDGE_M).astype(int)
    together = np.unique(np.column_stack([cube, made.scene.superpoint]), axis=0)
    assert len(together) == len(np.unique(cube, axis=0))  # points of a cell are of one superpoint


def test_other_clouds_are_searched_as_they_are(tmp_path: Path) -> None:
    made = make_scan(rooms.write_ply(tmp_path / "thin.ply", dense_cloud(1)), ScanOptions(up="z"))
    assert not any("dense" in line for line in made.lines)
