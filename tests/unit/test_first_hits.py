"""Which triangle a ray hits first, where Embree is and where it is not."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

import needs
from bifusion.datasets import first_hits as hits
from bifusion.datasets.rooms import RoomsConfig, make_room

TINY = RoomsConfig(views=2, image_size=(80, 60), depth_size=(40, 30), point_spacing_m=0.15)


def triangles(count: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Of this size, here and there in 4 m of space."""
    rng = np.random.default_rng(count)
    corner = rng.uniform(0, 4, (count, 1, 3)) + rng.normal(0, size, (count, 3, 3))
    return corner.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3)


def rays(count: int) -> tuple[np.ndarray, np.ndarray]:
    """From here and there, every way; some along an axis."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(count, 3)) * rng.uniform(0.1, 10, (count, 1))
    direction[::10, 0], direction[::20, 1] = 0, 0
    return rng.uniform(1, 3, (count, 3)), direction


def one_by_one(
    coord: np.ndarray, faces: np.ndarray, origin: np.ndarray, direction: np.ndarray
) -> list[int]:
    """The same by solving origin + t · direction = a point of the triangle, for all of them."""
    first = []
    start, sides = coord[faces[:, 0]], coord[faces[:, 1:]] - coord[faces[:, :1]]
    for begin, way in zip(origin, direction, strict=True):
        system = np.stack([sides[:, 0], sides[:, 1], np.broadcast_to(-way, start.shape)], axis=2)
        u, v, t = np.linalg.solve(system, (begin - start)[..., None])[..., 0].T
        t = np.where((u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0), t, np.inf)
        first.append(int(t.argmin()) if np.isfinite(t).any() else hits.MISS)
    return first


@pytest.mark.parametrize("count", [1, 4, 5, 300])
def test_tree_finds_what_all_triangles_tried_one_by_one_give(count: int) -> None:
    coord, faces = triangles(count, 0.5)
    origin, direction = rays(1100)  # more than are taken together
    found = hits.BoxTree(coord, faces).intersects_first(origin, direction)
    assert found.tolist() == one_by_one(coord, faces, origin, direction)
    assert count < 300 or 0.05 < (found == hits.MISS).mean() < 0.8


def test_no_ray_passes_between_neighbours_and_equal_ones_go_by_number() -> None:
    """A wall of squares of two triangles each; rays through its corners, edges, diagonals."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(9) / 7, np.arange(9) / 7))
    coord = np.stack([x, y, np.ones(81)], axis=1)
    square = np.array([0, 1, 10, 0, 10, 9]).reshape(2, 3)
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).reshape(-1, 1, 1)
    faces = (corner + square).reshape(-1, 3)
    half = (np.arange(15) + 1) / 14
    aim = np.stack([*(axis.ravel() for axis in np.meshgrid(half, half)), np.ones(225)], axis=1)
    eye = np.broadcast_to([0.31, 0.57, -0.4], aim.shape)
    found = hits.BoxTree(coord, faces).intersects_first(eye, aim - eye)
    assert (found >= 0).all()
    twice = hits.BoxTree(coord, np.concatenate([faces, faces])).intersects_first(eye, aim - eye)
    np.testing.assert_array_equal(twice, found)


def test_what_is_no_triangle_is_never_hit() -> None:
    coord, faces = triangles(20, 0.5)
    origin, direction = rays(300)
    found = hits.BoxTree(coord, faces).intersects_first(origin, direction)
    coord = np.concatenate([coord, [[1e300, 0, 0], [0, 1e300, 0], [2, 2, 2]]])
    added = np.array([[60, 61, 62], [62, 62, 62], [0, 0, 1]])
    more = hits.BoxTree(coord, np.concatenate([faces, added])).intersects_first(origin, direction)
    np.testing.assert_array_equal(more, found)
    nothing = hits.BoxTree(coord, faces).intersects_first(origin[:0], direction[:0])
    assert nothing.shape == (0,)


def test_embree_is_asked_for_where_it_can_be_had() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (embree,) = (one for one in map(Requirement, project["dependencies"]) if one.name == "embreex")
    assert embree.marker is not None
    asked_for = {
        (system, machine): embree.marker.evaluate({"sys_platform": system, "platform_machine": machine})
        for system, machine in [("linux", "aarch64"), ("linux", "x86_64"), ("darwin", "arm64")]
    }
    assert list(asked_for.values()) == [False, True, True], asked_for


def test_tree_and_embree_agree() -> None:
    needs.module("embree", "embreex")
    coord, faces = triangles(2000, 0.2)
    origin, direction = rays(4000)
    given = hits.first_hits(coord, faces)
    assert not isinstance(given, hits.BoxTree)
    found = hits.BoxTree(coord, faces).intersects_first(origin, direction)
    # Embree's numbers are single precision: it may see a ray pass an edge on the other side
    assert (found != given.intersects_first(origin, direction)).mean() < 0.001


def test_a_room_made_without_embree_is_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    needs.module("embree", "embreex")
    scene, views = make_room(TINY, "train", 0)
    pictures = list(views)
    monkeypatch.setitem(sys.modules, "trimesh.ray.ray_pyembree", None)
    assert isinstance(hits.first_hits(np.eye(3), np.array([[0, 1, 2]])), hits.BoxTree)
    bare, bare_views = make_room(TINY, "train", 0)
    np.testing.assert_array_equal(bare.coord, scene.coord)
    np.testing.assert_array_equal(bare.color, scene.color)
    for one, other in zip(bare_views, pictures, strict=True):
        np.testing.assert_array_equal(one.color, other.color)
        np.testing.assert_array_equal(one.depth_m, other.depth_m)
