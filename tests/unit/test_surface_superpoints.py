"""Superpoints of meshes as exporters leave them: cut at every triangle, with vertices of no face."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import room_meshes as rooms
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.scan.make import make_scan
from bifusion.datasets.scan.options import ScanOptions
from bifusion.datasets.scan.telling import Telling
from bifusion.datasets.superpoints.normals import mesh_normals
from bifusion.datasets.superpoints.superpoints import SEG_MIN_VERTS, segmentator_superpoints
from bifusion.datasets.superpoints.surface import surface_superpoints
from bifusion.datasets.superpoints.welding import welded


def joined_room() -> Mesh:
    """The room with one vertex at each place: its sheets meet at their edges."""
    room = rooms.room_mesh()
    first, place = welded(room.coord)
    return dataclasses.replace(
        room, coord=room.coord[first], color=room.color[first], faces=place[room.faces]
    )


def cut(mesh: Mesh) -> Mesh:
    """Each triangle with three vertices of its own."""
    corners = mesh.faces.ravel()
    faces = np.arange(len(corners)).reshape(-1, 3)
    return dataclasses.replace(mesh, coord=mesh.coord[corners], color=mesh.color[corners], faces=faces)


def test_first_vertices_are_kept_in_their_order() -> None:
    coord = np.array([[1.0, 2, 3], [0, 0, 0], [1, 2, 3], [-0.0, 0, 0], [1, 2, 4]])
    first, place = welded(coord)
    assert first.tolist() == [0, 1, 4]
    assert place.tolist() == [0, 1, 0, 1, 2]
    assert mesh_normals(np.zeros((0, 3)), np.zeros((0, 3), int)).shape == (0, 3)


@pytest.mark.parametrize(
    "coord",
    [np.zeros((5, 3)), np.arange(15.0).reshape(5, 3), np.eye(5, 3)],
    ids=["place", "line", "few"],
)
def test_a_surface_without_area_is_one_superpoint(coord: np.ndarray) -> None:
    found = surface_superpoints(coord, None, np.array([[0, 1, 2], [2, 3, 4]]))
    assert found.tolist() == [0] * 5


def test_a_connected_mesh_has_segmentators_own() -> None:
    room = joined_room()
    normal = mesh_normals(room.coord, room.faces)
    own = segmentator_superpoints(room.coord, normal, room.faces)
    assert own.max() > 5
    assert np.array_equal(surface_superpoints(room.coord, normal, room.faces), own)


def test_a_mesh_cut_at_every_triangle_has_those_of_the_whole() -> None:
    room = joined_room()
    soup = cut(room)
    corners = room.faces.ravel()
    found = surface_superpoints(soup.coord, None, soup.faces)
    assert segmentator_superpoints(soup.coord, soup.coord, soup.faces).max() + 1 == len(room.faces)
    pairs = set(zip(found, surface_superpoints(room.coord, None, room.faces)[corners], strict=True))
    assert len(pairs) == len(np.unique(found)) == len({whole for _, whole in pairs})
    normals = mesh_normals(soup.coord, soup.faces)
    assert normals == pytest.approx(mesh_normals(room.coord, room.faces)[corners], abs=1e-9)


def test_vertices_of_no_face_are_a_cloud() -> None:
    """Two sheets beside the room lost their faces: each is a superpoint, none of the room's."""
    room = joined_room()
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20), [0]), axis=-1).reshape(-1, 3) * 0.05
    coord = np.concatenate([room.coord, grid + [20, 0, 0], grid[:, [2, 0, 1]] + [30, 0, 0]])
    found = surface_superpoints(coord, None, room.faces)
    ours, first, second = np.split(found, [len(room.coord), len(room.coord) + 400])
    assert np.array_equal(ours, surface_superpoints(room.coord, None, room.faces))
    assert len(set(first)) == len(set(second)) == 1
    assert len({first[0], second[0], *ours}) == len(set(ours)) + 2


@pytest.mark.parametrize("loose", [1, 2, 9])
def test_a_few_loose_vertices(loose: int) -> None:
    room = joined_room()
    coord = np.concatenate([room.coord, np.arange(3.0 * loose).reshape(-1, 3) + 20])
    found = surface_superpoints(coord, None, room.faces)
    assert len(set(found[len(room.coord) :])) == 1
    assert not set(found[len(room.coord) :]) & set(found[: len(room.coord)])


def test_a_mesh_of_nothing_but_loose_triangles_is_a_cloud() -> None:
    """Corners that do not meet to the last bit: there is nothing to weld."""
    soup = cut(joined_room())
    jitter = np.random.default_rng(0).uniform(-1e-5, 1e-5, soup.coord.shape)
    found = surface_superpoints(soup.coord + jitter, None, soup.faces)
    sizes = np.bincount(found)
    assert sizes.min() >= SEG_MIN_VERTS
    assert len(sizes) < len(soup.faces) / 50


def test_a_scan_of_a_cut_mesh_is_that_of_the_whole(tmp_path: Path) -> None:
    room = joined_room()
    superpoints = []
    for mesh in (room, cut(room)):
        path = rooms.write_obj(tmp_path / "room.obj", mesh)
        scene = make_scan(path, ScanOptions(up="z", scale=1.0), Telling()).scene
        superpoints.append(len(np.unique(scene.superpoint)))
    assert superpoints[0] == superpoints[1] < 100
