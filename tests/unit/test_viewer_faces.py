"""Triangles of a page: as few bytes, unpacked as they were; a coarser form of very many."""

from __future__ import annotations

import zlib

import numpy as np

import room_meshes as rooms
from bifusion.viewer.packed_faces import PackedFaces, fewer_faces, pack_faces
from bifusion.viewer.packing import pack
from bifusion.viewer.shown_scan import ShownScan


def unpacked(packed: PackedFaces) -> np.ndarray:
    """(F, 3) corners in the file's order of points."""
    raw = np.frombuffer(zlib.decompress(packed.content), np.uint8).reshape(3, 4, packed.count)
    first, second, third = (raw.astype(np.int64) << (8 * np.arange(4))[:, None]).sum(axis=1)
    first = np.cumsum(first)
    return np.column_stack([first, first + second, first + third])


def canonical(corners: np.ndarray) -> list[tuple[int, ...]]:
    """Each triangle from its smallest corner on, winding kept, sorted."""
    turns = [[tuple(np.roll(one, turn).tolist()) for turn in range(3)] for one in corners]
    return sorted(min(turn) for turn in turns)


def test_triangles_come_back_between_the_same_points() -> None:
    mesh = rooms.room_mesh(0.2)
    order = np.random.default_rng(0).permutation(len(mesh.coord))
    packed = pack_faces(mesh.faces, order)
    assert packed.count == len(mesh.faces)
    assert canonical(order[unpacked(packed)]) == canonical(mesh.faces)


def test_a_page_counts_its_triangles_and_says_where_they_are_fewer(monkeypatch) -> None:
    mesh = rooms.room_mesh(0.1)
    scan = ShownScan("room", mesh.coord, mesh.color, faces=mesh.faces)
    described, _, faces = pack(scan)
    assert faces is not None and described["faces"] == len(mesh.faces) and described["notes"] == []
    most = len(mesh.faces) // 3
    monkeypatch.setattr("bifusion.viewer.packing.MOST_FACES", most)
    described, _, faces = pack(scan)
    assert faces is not None and 0.4 * most < faces.count <= most
    assert described["notes"] == [
        f"The surface is shown coarsely: {faces.count:,} of its {len(mesh.faces):,} triangles."
    ]


def test_a_coarser_surface_lies_where_the_surface_is() -> None:
    mesh = rooms.room_mesh(0.05)
    coarse = fewer_faces(mesh.coord, mesh.faces, len(mesh.faces) // 4)
    assert 0.1 < len(coarse) / len(mesh.faces) <= 0.25
    assert (coarse != np.roll(coarse, 1, axis=1)).all()
    assert len(set(canonical(coarse))) == len(coarse)
    areas = [_area(mesh.coord, faces) for faces in (mesh.faces, coarse)]
    assert abs(areas[1] / areas[0] - 1) < 0.15
    a, b, c = (mesh.coord[coarse[:, k]] for k in range(3))
    up = np.cross(b - a, c - a)[:, 2]
    level = np.ptp(mesh.coord[coarse][:, :, 2], axis=1) < 1e-9
    assert (up[level] > 0).all()  # the floor and what stands on it still face upwards
    assert fewer_faces(mesh.coord, mesh.faces, len(mesh.faces)) is mesh.faces


def test_a_mesh_without_area_is_shown_as_points() -> None:
    coord, faces = np.zeros((4, 3)), np.array([[0, 1, 2], [1, 2, 3]])
    assert len(fewer_faces(coord, faces, 1)) == 0


def _area(coord: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (coord[faces[:, k]] for k in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
