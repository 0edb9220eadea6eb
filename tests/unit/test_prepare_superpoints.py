"""Superpoints for scene folders without them, and normals for clouds without them."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

import needs
from bifusion.cli import main
from bifusion.data.scene_folder import load_points, load_scene
from bifusion.datasets.ply.mesh import read_mesh
from bifusion.datasets.superpoints.normals import estimate_normals, mesh_normals
from bifusion.datasets.superpoints.prepare_superpoints import find_scenes, prepare_superpoints
from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20

REAL = needs.folder("BIFUSION_REAL_DATA", "data") / "scannet"
SIDE = 8


def corner() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A floor and a wall of SIDE × SIDE vertices that meet in an inward edge: coord, faces, wall."""
    u, v = (axis.ravel() for axis in np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"))
    zero = np.zeros_like(u)
    floor, wall = np.stack([u + 1, v, zero], axis=1), np.stack([zero, v, u + 1], axis=1)
    row, column = (axis.ravel() for axis in np.meshgrid(range(SIDE - 1), range(SIDE - 1), indexing="ij"))
    a, b = row * SIDE + column, row * SIDE + column + 1
    squares = np.concatenate([np.stack([a, a + SIDE, b], 1), np.stack([b, a + SIDE, b + SIDE], 1)])
    faces = np.concatenate([squares, squares[:, ::-1] + SIDE * SIDE])
    coord = np.concatenate([floor, wall]) * 0.05
    return coord.astype(np.float32), faces, np.arange(2 * SIDE * SIDE) >= SIDE * SIDE


def pointcept_scene(folder: Path, *, normals: bool = True) -> Path:
    """A folder as Pointcept's preprocessing leaves it."""
    coord, _, wall = corner()
    folder.mkdir(parents=True)
    np.save(folder / "coord.npy", coord)
    np.save(folder / "color.npy", np.full((len(coord), 3), 90, np.uint8))
    if normals:
        np.save(folder / "normal.npy", np.where(wall[:, None], (1, 0, 0), (0, 0, 1)).astype("f4"))
    return folder


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_normals_that_are_none_are_estimated(tmp_path, value):
    """Programs that know no normals write zeros, by which points fell into superpoints by chance."""
    folder = pointcept_scene(tmp_path / "room", normals=False)
    np.save(folder / "normal.npy", np.full((2 * SIDE * SIDE, 3), value, np.float32))
    with pytest.warns(UserWarning, match="normal.npy: 100% of the points have no normal"):
        assert prepare_superpoints([folder])["cloud, normals estimated"] == 1
    without = pointcept_scene(tmp_path / "without", normals=False)
    prepare_superpoints([without])
    found, expected = (np.load(one / "superpoint.npy") for one in (folder, without))
    assert np.array_equal(found, expected)


def test_normals_of_another_length_are_made_unit_vectors(tmp_path):
    folder, longer = (pointcept_scene(tmp_path / name) for name in ("room", "longer"))
    np.save(longer / "normal.npy", 0.3 * np.load(folder / "normal.npy"))
    prepare_superpoints([folder, longer])
    found, expected = (np.load(one / "superpoint.npy") for one in (longer, folder))
    assert np.array_equal(found, expected)


def released_scan(folder: Path, *, segments: bool) -> Path:
    """The scan such a scene was made from."""
    coord, faces, _ = corner()
    folder.mkdir(parents=True)
    vertex = np.zeros(
        len(coord), [(a, "f4") for a in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")]
    )
    for axis, name in enumerate("xyz"):
        vertex[name] = coord[:, axis]
    face = np.zeros(len(faces), [("vertex_indices", "i4", (3,))])
    face["vertex_indices"] = faces
    elements = [PlyElement.describe(vertex, "vertex"), PlyElement.describe(face, "face")]
    PlyData(elements).write(str(folder / f"{folder.name}_vh_clean_2.ply"))
    if segments:
        ids = [7] * 100 + [3] * (len(coord) - 100)
        path = folder / f"{folder.name}_vh_clean_2.0.010000.segs.json"
        path.write_text(json.dumps({"segIndices": ids}))
    return folder


def split_by_wall(superpoint: np.ndarray) -> bool:
    wall = corner()[2]
    return superpoint.max() == 1 and len(set(superpoint[wall])) == len(set(superpoint[~wall])) == 1


@pytest.mark.parametrize("normals", [True, False], ids=["normals", "bare"])
def test_cloud_without_a_mesh(tmp_path, normals) -> None:
    scene = pointcept_scene(tmp_path / "room", normals=normals)
    with pytest.raises(InputError, match=f"prepare superpoints {scene}"):
        load_scene(scene, SCANNET20)
    (source,) = prepare_superpoints([scene])
    assert ("estimated" in source) != normals
    loaded = load_scene(scene, SCANNET20)
    assert loaded.superpoint.dtype == np.int32
    assert split_by_wall(loaded.superpoint)
    assert sorted(path.name for path in scene.glob(".*")) == []


def test_released_segments_come_before_the_mesh_and_the_mesh_before_the_cloud(tmp_path) -> None:
    for name, segments in (("a", True), ("b", False)):
        pointcept_scene(tmp_path / "data" / "train" / name)
        released_scan(tmp_path / "scans" / name, segments=segments)
    pointcept_scene(tmp_path / "data" / "val" / "c")
    steps = []
    sources = prepare_superpoints(
        [tmp_path / "data"], scans=tmp_path / "scans", progress=lambda *step: steps.append(step)
    )
    assert sources == {"ScanNet's segments": 1, "mesh": 1, "cloud with normals": 1}
    assert steps == [(1, 3), (2, 3), (3, 3)]
    official = np.load(tmp_path / "data" / "train" / "a" / "superpoint.npy")
    assert official.tolist() == [1] * 100 + [0] * 28
    assert split_by_wall(np.load(tmp_path / "data" / "train" / "b" / "superpoint.npy"))


def test_what_is_there_is_kept_unless_told_otherwise(tmp_path) -> None:
    scene = pointcept_scene(tmp_path / "room")
    np.save(scene / "superpoint.npy", np.zeros(128, np.int32))
    assert prepare_superpoints([scene]) == {"kept": 1}
    assert np.load(scene / "superpoint.npy").max() == 0
    assert prepare_superpoints([scene], overwrite=True) == {"cloud with normals": 1}
    assert np.load(scene / "superpoint.npy").max() == 1


@pytest.mark.filterwarnings("ignore:.*little for a room")
def test_failures_are_listed_after_the_others_are_done(tmp_path) -> None:
    for name in ("a", "b"):
        pointcept_scene(tmp_path / "train" / name)
    scan = released_scan(tmp_path / "scans" / "a", segments=False)
    np.save(tmp_path / "train" / "a" / "coord.npy", np.zeros((5, 3), np.float32))
    np.save(tmp_path / "train" / "a" / "color.npy", np.zeros((5, 3), np.uint8))
    (tmp_path / "train" / "a" / "normal.npy").unlink()
    with pytest.raises(InputError, match=r"1 of 2 scenes(.|\n)*5 points(.|\n)*128 vertices"):
        prepare_superpoints([tmp_path], scans=scan.parent)
    assert (tmp_path / "train" / "b" / "superpoint.npy").exists()
    assert not (tmp_path / "train" / "a" / "superpoint.npy").exists()


def test_scenes_are_found_at_three_depths_and_nowhere_else(tmp_path) -> None:
    scene = pointcept_scene(tmp_path / "data" / "train" / "room")
    pointcept_scene(tmp_path / "data" / "train" / ".room.writing-1")
    for folder in (scene, scene.parent, scene.parent.parent):
        assert find_scenes(folder) == [scene]
    with pytest.raises(InputError, match="no scene folder"):
        find_scenes(tmp_path)


def test_command(tmp_path, monkeypatch, capsys) -> None:
    scene = pointcept_scene(tmp_path / "room")
    for folder, status in ((scene, 0), (tmp_path / "no", 2)):
        monkeypatch.setattr("sys.argv", ["bifusion", "prepare", "superpoints", str(folder)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == status
    shown = capsys.readouterr()
    assert "cloud with normals: 1" in shown.out
    assert "no scene folder" in shown.err


# ------------------------------------------------------------------------------------------ normals


def test_normals_of_planes_agree_in_sign_and_floors_face_up() -> None:
    coord, _, wall = corner()
    normal = estimate_normals(coord, neighbors=8)
    assert np.allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    # Vertices in the first two rows from the edge see both planes.
    inner = np.tile(np.arange(SIDE * SIDE) // SIDE >= 2, 2)
    assert (normal[inner & ~wall] @ (0, 0, 1) > 0.99).all()
    assert (np.abs(normal[inner & wall] @ (1, 0, 0)) > 0.99).all()
    assert len(set(np.sign(normal[inner & wall, 0]))) == 1


def test_normals_of_parts_that_nothing_connects() -> None:
    coord = corner()[0][: SIDE * SIDE]
    both = np.concatenate([coord, coord + 50])
    assert (estimate_normals(both)[:, 2] > 0.99).all()


def test_normals_turn_with_a_surface_that_winds() -> None:
    """Signs are handed on along thousands of points, and upright ones turn from facing up to down."""
    angle = np.linspace(1, 6 * np.pi, 2_000)
    radial = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=1)
    coord = np.concatenate([angle[:, None] * radial + (0, y, 0) for y in np.arange(4) * 0.02])
    outward = (estimate_normals(coord) * np.tile(radial, (4, 1))).sum(axis=1)
    assert (np.abs(outward) > 0.5).all()
    assert len(set(np.sign(outward))) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_normals_of_hardly_any_points_are_finite(count) -> None:
    normal = estimate_normals(np.eye(3, dtype=np.float32)[:count])
    assert normal.shape == (count, 3)
    assert np.isfinite(normal).all()


@pytest.mark.real_data
def test_real_scan(tmp_path) -> None:
    scan = REAL / "scans" / "scene0000_00"
    if not scan.is_dir():
        needs.lacking("real_data", REAL)
    mesh = read_mesh(scan / f"{scan.name}_vh_clean_2.ply")
    coord, color, faces = mesh.coord, mesh.color, mesh.faces
    scene = tmp_path / "train" / scan.name
    scene.mkdir(parents=True)
    np.save(scene / "coord.npy", coord)
    np.save(scene / "color.npy", color)
    assert prepare_superpoints([tmp_path], scans=scan.parent) == {"ScanNet's segments": 1}
    assert np.load(scene / "superpoint.npy").max() + 1 == 668

    mesh_only = tmp_path / "scans" / scan.name
    mesh_only.mkdir(parents=True)
    shutil.copy(scan / f"{scan.name}_vh_clean_2.ply", mesh_only)
    assert prepare_superpoints([tmp_path], scans=mesh_only.parent, overwrite=True) == {"mesh": 1}
    assert abs(np.load(scene / "superpoint.npy").max() + 1 - 668) < 5

    # Estimated without faces they are the mesh's normals at most places; a thin or broken part of the
    # scan may turn its sign as a whole.
    agreement = (estimate_normals(coord) * mesh_normals(coord.astype(np.float64), faces)).sum(axis=1)
    assert np.median(np.abs(agreement)) > 0.98
    assert (agreement > 0).mean() > 0.8


def test_case_mean_colours(cases, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(cases / "mean_colours_npy" / "make.py"))
    means = np.load("data/val/room/color.npy")
    with pytest.warns(UserWarning, match="color.npy holds float32 of 0 … 255 with fractions"):
        prepare_superpoints([Path("data")])
        assert np.array_equal(load_points(Path("data/val/room"))[1], np.round(means))
