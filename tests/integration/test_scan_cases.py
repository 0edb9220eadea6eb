"""Small inputs that users met trouble with, through `bifusion scan`: what comes out, value by value."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import untrained_runs
from bifusion.data.open_scene import StoredViews
from bifusion.datasets.mesh_files.read import read_mesh_file
from conftest import Called

VERTICES, SPACING_M, EXTENT_M = 512, 0.1, (1.5, 1.6, 1.5)
"""A floor and a wall of squares of 0.1 m, which tell no way up: --up does."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cases-run")
    return untrained_runs.save_run(root / "run", untrained_runs.baseline())


@dataclass
class Labelled:
    """What `bifusion scan` left, and what it said."""

    out: Path
    said: str

    def scene(self, name: str) -> np.ndarray:
        return np.load(self.out / "scene" / f"{name}.npy")

    def json(self, name: str) -> Any:
        return json.loads((self.out / name).read_text())


@pytest.fixture
def scanned(bifusion: Callable[..., Called], run: Path, tmp_path: Path) -> Callable[..., Labelled]:
    """Labels an input of a case with --up z, after it was asked for."""

    def label(path: Path, *options: object) -> Labelled:
        command = ["scan", path, "--run", run, "--out", tmp_path / "out", *options]
        asked = bifusion(*command)
        assert asked.status == 2 and "--up" in asked.err and not (tmp_path / "out").exists()
        called = bifusion(*command, "--up", "z")
        assert called.status == 0, called.err
        return Labelled(tmp_path / "out", " ".join(called.out.split()))

    return label


def of_room(cases: Path, name: str) -> Path:
    return cases / name / "scans" / "room" / "room_vh_clean_2.ply"


def nearest_m(coord: np.ndarray) -> np.ndarray:
    """(N,) distance of each point to the nearest other one."""
    apart = np.linalg.norm(coord[:, None].astype(float) - coord[None], axis=2)
    return (apart + np.diag(np.full(len(coord), np.inf))).min(axis=1)


MESHES = {
    "binary_ok": ("mesh of 512 vertices and 900 triangles", "in metres"),  # ply_to_predict speaks of it
    "no_faces": ("cloud of 512 points", "no faces: superpoints of the cloud"),
    "far_from_origin": ("offset (500001, 4000002, 101) m taken off", "in metres"),
    "millimetres": ("found to be in millimetres: 1.6 × 1.5 × 1.5 m",),
}
"""Case → words of what is said."""


@pytest.mark.parametrize("name", MESHES)
def test_meshes(name: str, cases: Path, scanned: Callable[..., Labelled]) -> None:
    path = of_room(cases, name)
    found, given = scanned(path), read_mesh_file(path)
    assert [words for words in MESHES[name] if words not in found.said] == []
    coord = found.scene("coord")[:VERTICES]  # points between them follow, as their squares are large
    assert np.allclose(np.ptp(coord, axis=0), EXTENT_M, atol=1e-3) and np.abs(coord).max() < 2
    assert len(np.unique(coord, axis=0)) == VERTICES
    assert np.allclose(nearest_m(coord), SPACING_M, atol=1e-3)
    assert len(np.unique(found.scene("superpoint"))) == 2  # the floor, the wall
    mine = read_mesh_file(found.out / "classes.ply")
    assert np.array_equal(mine.coord, given.coord) and np.array_equal(mine.faces, given.faces)
    assert len(np.load(found.out / "labels.npy")) == VERTICES
    to_scene = np.array(found.json("scan.json")["to_scene"])
    assert np.allclose(given.coord @ to_scene[:3, :3].T + to_scene[:3, 3], coord, atol=1e-4)
    scale = 0.001 if name == "millimetres" else 1.0
    assert found.json("objects.json")["metres_a_unit"] == scale
    offset = np.array(found.json("scene/scene.json").get("offset_m", (0, 0, 0)))
    assert np.allclose(given.coord * scale - offset, coord, atol=2e-3)  # walls may be turned a little


def test_exif_turned(cases: Path, scanned: Callable[..., Labelled]) -> None:
    found = scanned(cases / "exif_turned" / "posed" / "room", "--views", 1)
    assert "turned as their orientation tag says" in found.said
    (view,) = StoredViews(found.out / "scene").values()
    assert view.color.shape[:2] == (48, 64) == view.depth_m.shape
    assert view.color_K[0, 2] == 31.5 and view.color_K[1, 2] == 23.5


def test_depth_fifths(
    cases: Path,
    bifusion: Callable[..., Called],
    scanned: Callable[..., Labelled],
    run: Path,
    tmp_path: Path,
) -> None:
    recording = cases / "depth_fifths" / "posed" / "room"
    refused = bifusion("scan", recording, "--run", run, "--out", tmp_path / "out", "--up", "z")
    assert refused.status == 2 and "--depth-scale 5000" in refused.err
    assert "median depth 7.00 m" in refused.out
    found = scanned(recording, "--depth-scale", 5000, "--views", 1)
    (view,) = StoredViews(found.out / "scene").values()
    depth_m = view.depth_m[view.depth_m > 0]
    assert np.allclose(depth_m, 1.4, atol=1e-3)
    mesh = read_mesh_file(found.out / "classes.ply")
    assert abs(np.percentile(mesh.coord[:, 1], 99) - EXTENT_M[1]) < 0.05  # the wall the camera looks at
