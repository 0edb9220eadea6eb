"""Inputs as scans: unit and upright found out, and the result on the user's own vertices."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from plyfile import PlyData

import recording_factory as made_recordings
import room_meshes as rooms
from bifusion.cli import main
from bifusion.data.open_scene import OpenScene
from bifusion.data.scene_folder import read_offset
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.placement import Placement, placement_notes
from bifusion.datasets.ply.mesh import Mesh
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.scan import subdivide
from bifusion.datasets.scan.made import MadeScan
from bifusion.datasets.scan.make import make_scan, open_made, refuse_views, scan_name
from bifusion.datasets.scan.mesh_scan import sampled
from bifusion.datasets.scan.options import ScanOptions
from bifusion.datasets.scan.recording_scan import rescaled
from bifusion.datasets.scan.subdivide import COARSE, LONGEST, coarseness, subdivided
from bifusion.datasets.scan.telling import Telling
from bifusion.datasets.scan.units import find_scale
from bifusion.errors import InputError
from bifusion.inference.labelled import NO_VIEWS, LabelledScan, segment
from bifusion.inference.scan_files import COLUMNS, FILES, scan_files, write_labelled
from bifusion.inference.segmentation import Segmentation, as_segmentation
from bifusion.labels.sets import SCANNET20
from bifusion.types import SceneResult
from scene_factory import BOXES

STEP_M = 0.37
"""Height of a class of the stand-in."""
FAR = np.array([5e5, -3e5, 100.0])
"""Metres, as map projections have."""


class HeightSegmenter:
    """In a model's place: classes are storeys, and what stands in the middle is an object."""

    labels = SCANNET20

    def __init__(self, uses_views: bool = False, constant: bool = False):
        self.config = SimpleNamespace(uses_views=uses_views)
        self._constant = constant

    def predict(self, scene: OpenScene, *, min_score: float | None = None) -> Segmentation:
        low, high = scene.coord.min(axis=0), scene.coord.max(axis=0)
        semantic = (np.round(scene.coord[:, 2] - low[2], 3) / STEP_M).astype(np.int16)
        inner = ((scene.coord[:, :2] > low[:2] + 0.2) & (scene.coord[:, :2] < high[:2] - 0.2)).all(
            axis=1
        )
        mask = inner & (scene.coord[:, 2] > low[2] + 0.02)
        result = SceneResult(
            scene.name,
            len(semantic),
            np.packbits(mask[None], axis=1),
            np.array([4], np.int16),
            np.array([0.9], np.float32),
            semantic=semantic * (not self._constant),
        )
        return as_segmentation(result, scene.coord, SCANNET20, [])


def truth(mesh: Mesh) -> np.ndarray:
    """(N,) class of each vertex of a mesh with z up, in metres, its floor at 0."""
    return (np.round(mesh.coord[:, 2], 3) / STEP_M).astype(int)


def y_up_millimetres_far(path: Path, mesh: Mesh) -> Path:
    coord = (mesh.coord @ rooms.Y_UP.T + FAR) * 1000
    return rooms.write_ply(path / "far.ply", Mesh(coord, mesh.color, mesh.faces))


def turned_obj(path: Path, mesh: Mesh) -> Path:
    angle = np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    coord = mesh.coord @ (rooms.Y_UP @ turn).T + (1, 2, 3)
    return rooms.write_obj(path / "turned.obj", Mesh(coord, mesh.color, mesh.faces))


def glb(path: Path, mesh: Mesh) -> Path:
    coord = mesh.coord @ rooms.Y_UP.T
    return rooms.write_glb(path / "room.glb", Mesh(coord, mesh.color, mesh.faces))


def segmented(made: MadeScan, segmenter: HeightSegmenter) -> LabelledScan:
    return segment(made, segmenter)  # pyright: ignore[reportArgumentType]


def labelled(path: Path, segmenter: HeightSegmenter | None = None) -> LabelledScan:
    return segmented(make_scan(path, ScanOptions()), segmenter or HeightSegmenter())


@pytest.mark.parametrize("write", [y_up_millimetres_far, turned_obj, glb])
@pytest.mark.parametrize("spacing_m", [0.05, 0.4])
def test_labels_are_on_the_users_vertices(write, spacing_m: float, tmp_path: Path) -> None:
    mesh = rooms.permuted(rooms.room_mesh(spacing_m))
    said = labelled(write(tmp_path, mesh))
    assert (said.semantic == truth(mesh)).mean() >= 0.98
    assert len(said.made.scene.coord) > 1.5 * len(mesh.coord) or spacing_m < 0.1  # sampled in between
    constant = segmented(said.made, HeightSegmenter(constant=True))
    assert (constant.semantic == truth(mesh)).mean() < 0.7


def test_files_are_in_the_users_frame_unit_and_order(tmp_path: Path) -> None:
    mesh = rooms.permuted(rooms.room_mesh())
    path = y_up_millimetres_far(tmp_path, mesh)
    said = labelled(path)
    write_labelled(tmp_path, said, Path("runs/heights"))
    read = read_mesh_file(path)
    for name in ("classes.ply", "objects.ply"):
        ply = PlyData.read(str(tmp_path / name))
        vertex = ply["vertex"].data
        assert np.array_equal(np.stack([vertex[axis] for axis in "xyz"], axis=1), read.coord)
        assert np.array_equal(vertex["label"], said.semantic)
        assert np.array_equal(np.stack(ply["face"].data["vertex_indices"]), read.faces)
    assert np.array_equal(np.load(tmp_path / "labels.npy"), said.semantic)
    text = np.loadtxt(tmp_path / "labels.txt", dtype=int)
    assert np.array_equal(text[:, 1], np.load(tmp_path / "instances.npy"))
    listed = json.loads((tmp_path / "objects.json").read_text())
    (thing,) = listed["objects"]
    boxes = np.array([BOXES[:, 0].min(axis=0), BOXES[:, 1].max(axis=0)])
    expected = np.sort((boxes @ rooms.Y_UP.T + FAR) * 1000, axis=0)
    assert np.abs(np.array([thing["box"]["min"], thing["box"]["max"]]) - expected).max() < 60
    assert np.allclose(thing["size_m"]["height"], boxes[1, 2], atol=0.06)
    assert listed["metres_a_unit"] == 0.001 and np.allclose(listed["up"], (0, 1, 0), atol=0.02)
    with open(tmp_path / "objects.csv", newline="") as file:
        (row,) = list(csv.DictReader(file))
    assert list(row) == list(COLUMNS) and float(row["centre_y"]) == thing["centre"][1]
    assert set(FILES) <= set(scan_files(tmp_path)) and (tmp_path / "scan.json").exists()
    assert scan_files(tmp_path.parent) == []


def test_glb_is_in_metres_with_y_up(tmp_path: Path) -> None:
    mesh = rooms.room_mesh()
    said = labelled(y_up_millimetres_far(tmp_path, mesh))
    write_labelled(tmp_path, said, Path("runs/heights"))
    written = read_mesh_file(tmp_path / "classes.glb")
    wanted = mesh.coord @ rooms.Y_UP.T
    assert np.array_equal(written.faces, mesh.faces)
    assert np.abs(written.coord - written.coord.mean(0) - (wanted - wanted.mean(0))).max() < 0.03
    colors = PlyData.read(str(tmp_path / "classes.ply"))["vertex"].data["red"].astype(int)
    assert np.abs(written.color[:, 0] - colors).max() < 16  # 8 linear bits


def test_the_models_lack_of_pictures_is_said(tmp_path: Path) -> None:
    path = glb(tmp_path, rooms.room_mesh())
    assert labelled(path, HeightSegmenter(uses_views=True)).warnings == [NO_VIEWS]
    assert labelled(path).warnings == []


def test_what_is_found_out_is_said_and_kept(tmp_path: Path) -> None:
    heard: list[str] = []
    path = y_up_millimetres_far(tmp_path, rooms.room_mesh())
    made = make_scan(path, ScanOptions(), Telling(say=heard.append))
    assert heard == made.lines
    for words in ("millimetres", "up is", "far from the origin"):
        assert any(words in line for line in heard)
    with pytest.raises(InputError, match="folder: is a NoneType; expected a path"):
        made.write_scene(None)
    made.write_scene(tmp_path / "scene")
    assert np.abs(read_offset(tmp_path / "scene")).max() > 1e5
    again = open_made(tmp_path / "scene", Telling())
    assert np.allclose(again.mesh.coord, made.scene.coord + made.placement.offset_m)


@pytest.mark.parametrize(
    ("size", "scale"), [(4.0, 1.0), (60.0, 1.0), (4000.0, 0.001), (400.0, 0.01), (300_000.0, None)]
)
def test_units(size: float, scale: float | None) -> None:
    coord = np.random.default_rng(0).uniform(0, 1, (2000, 3)) * (size, size, 0.4 * size)
    if scale is None:
        with pytest.raises(InputError, match="--scale"):
            find_scale(coord, None)
    else:
        found, line = find_scale(coord, None)
        assert found == scale and "--scale" in line
    assert find_scale(coord, 50 / size)[0] == 50 / size


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((1400, 900, 260), 0.01),  # a flat; in millimetres it would be 26 cm high
        ((900, 260, 1400), 0.01),
        ((2900, 1200, 240), 0.01),
        ((14_000, 9000, 2600), 0.001),
        ((2200, 1900, 1500), 0.001),  # a bathroom
        ((4000, 300, 2500), None),  # a wall in millimetres, or a storey of 40 m by 25 m
        ((4000, 3000, 200), None),  # a floor
        ((4000, 3000, 1000), None),  # a hall, or the lower half of a room
        ((2000, 1600, 500), None),  # a bed, or a hall
        ((1181, 787, 157), None),  # a storey in inches
        ((551, 354, 102), None),
        ((46, 30, 8.5), 1.0),  # feet are told by a note
    ],
)
def test_the_height_tells_centimetres_from_millimetres(
    size: tuple[float, float, float], scale: float | None
) -> None:
    coord = np.random.default_rng(0).uniform(0, 1, (5000, 3)) * size
    if scale is not None:
        assert find_scale(coord, None)[0] == scale
        return
    with pytest.raises(InputError, match=r"--scale"):
        find_scale(coord, None)


def test_a_scale_that_was_turned_round_is_told() -> None:
    """1000 units a metre given as metres a unit, and the reverse."""
    room = np.random.default_rng(0).uniform(0, 1, (999, 3)) * (4, 3, 2.5)
    for scale in (1000.0, 0.001):
        with pytest.raises(
            InputError, match=f"by the given scale, {scale:g}, which no scan is; expected"
        ):
            find_scale(room, scale)


def test_a_scan_that_no_unit_makes_a_room_is_asked_about() -> None:
    with pytest.raises(InputError, match="inches"):
        find_scale(np.random.default_rng(0).uniform(0, 1, (999, 3)) * (160, 150, 100), None)
    with pytest.raises(InputError, match="inches"):  # a small room, or a cathedral
        find_scale(np.random.default_rng(0).uniform(0, 1, (999, 3)) * (94, 90, 79), None)
    with pytest.raises(InputError, match="--scale"):
        find_scale(np.random.default_rng(0).uniform(0, 0.1, (999, 3)), None)


def test_subdivision_keeps_vertices_and_surface() -> None:
    mesh = rooms.room_mesh(0.4)
    dense = subdivided(mesh, 0.05)
    count = len(mesh.coord)
    assert np.array_equal(dense.coord[:count], mesh.coord)
    assert np.array_equal(dense.color[:count], mesh.color)
    assert np.isclose(area(dense), area(mesh))
    corner = dense.coord[dense.faces]
    longest = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2).max()
    assert longest <= LONGEST * 0.05 + 1e-9 and coarseness(dense, 0.05) <= 1 < COARSE
    # No crack: every inner edge of the coarse mesh is still between two triangles.
    assert border_length(dense) == pytest.approx(border_length(mesh))


def test_points_in_between_that_are_too_many_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest edges are halved as long as there is room for more points."""
    mesh = rooms.room_mesh(0.4)
    full = subdivided(mesh, 0.05)
    most = len(full.coord) - 500
    monkeypatch.setattr(subdivide, "MOST_POINTS", most)
    telling = Telling()
    fewer = sampled(mesh, 0.05, telling)
    assert len(fewer.coord) == most and np.isclose(area(fewer), area(mesh))
    assert border_length(fewer) == pytest.approx(border_length(mesh))
    (note,) = fewer.notes
    assert not full.notes and telling.lines[1:] == [note]
    assert note.startswith(f"no more points in between than {most:,} in all")
    monkeypatch.setattr(subdivide, "MOST_POINTS", 10)  # fewer than it has
    assert np.array_equal(subdivided(mesh, 0.05).faces, mesh.faces)


def area(mesh: Mesh) -> float:
    a, b, c = (mesh.coord[mesh.faces[:, corner]] for corner in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def border_length(mesh: Mesh) -> float:
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    single, times = np.unique(edges, axis=0, return_counts=True)
    ends = mesh.coord[single[times == 1]]
    return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())


def test_upright_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    grid = rooms.room_mesh()
    floor = np.flatnonzero((grid.coord[grid.faces][:, :, 2] == 0).all(axis=1))
    path = rooms.write_ply(tmp_path / "flat.ply", Mesh(grid.coord, grid.color, grid.faces[floor]))
    try:
        made = make_scan(path, ScanOptions())
    except InputError as error:
        assert "--up" in str(error) and "flat.ply" in str(error)
    else:
        assert abs(made.up[2]) > 0.99
    made = make_scan(path, ScanOptions(up="-z"))
    assert np.allclose(made.up, (0, 0, -1))


@pytest.mark.parametrize("spacing_m", [0.05, 0.4])
def test_one_stray_vertex_tilts_no_scan(spacing_m: float, tmp_path: Path) -> None:
    """Its few triangles, 500 m long, have more area than the room."""
    grid = rooms.room_mesh(spacing_m)
    inner = int(np.bincount(grid.faces.ravel()).argmax())
    grid.coord[inner] = (500.0, *grid.coord[inner, 1:])
    made = make_scan(rooms.write_ply(tmp_path / "stray.ply", grid), ScanOptions())
    assert np.allclose(made.up, (0, 0, 1))
    assert any("points lies far from the rest (first: point" in line for line in made.lines)
    assert np.count_nonzero(made.scene.coord[:, 0] > 50) == 1  # nothing was put between it and the room


def test_recordings_are_given_advice_that_they_can_take(tmp_path: Path) -> None:
    """--scale is refused for them."""
    coord_m = np.random.default_rng(0).uniform(0, 1, (100, 3)) * (8000, 6000, 3000)
    (note,) = placement_notes(Placement(), coord_m, 0.0, rescaled)
    assert "--scale" not in note and "poses by 0.001, and --depth-scale by 1000, makes metres" in note
    folder = made_recordings.seven_scenes(tmp_path / "r", made_recordings.poses(3))
    with pytest.raises(InputError, match=f"^{folder}: fusion: no "):
        make_scan(folder, ScanOptions(voxel_size_m=9.0))


def test_views_are_asked_of_recordings_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "coord.npy").touch()
    for name, what in (("room.ply", "a mesh or cloud"), ("scene", "a scene folder")):
        with pytest.raises(InputError, match=f"{name}: is {what}.* --views goes with recordings"):
            refuse_views(tmp_path / name, 4, None)
        refuse_views(tmp_path / name, None, None)
    refuse_views(tmp_path / "recording.sens", 4, None)
    mesh = rooms.write_ply(tmp_path / "room.ply", rooms.room_mesh(0.4))
    with pytest.raises(SystemExit):
        main(["scan", str(mesh), "--run", "none", "--out", str(tmp_path / "out"), "--views", "4"])
    assert "--views goes with recordings" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        ("mesh", ScanOptions(voxel_size_m=0.005, most_frames=2), "--voxel-size-m, --most-frames"),
        (
            "mesh",
            ScanOptions(opening=OpenOptions(depth_scale=5000, poses="world2cam")),
            "--depth-scale, ",
        ),
        ("scene", ScanOptions(up="z", most_frames=2, spacing_m=0.1), "--up, --most-frames, --spacing-m"),
        ("scene", ScanOptions(opening=OpenOptions(intrinsics=np.eye(3))), "--intrinsics"),
        ("recording", ScanOptions(scale=0.001), "--scale"),
        ("recording", ScanOptions(spacing_m=0.01), "--spacing-m"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    kind: str, options: ScanOptions, names: str, tmp_path: Path
) -> None:
    path = tmp_path / kind
    if kind == "mesh":
        path = rooms.write_ply(tmp_path / "mesh.ply", rooms.room_mesh(0.4))
    elif kind == "scene":
        path.mkdir()
        (path / "coord.npy").touch()
    else:
        made_recordings.seven_scenes(path, made_recordings.poses(3))
    with pytest.raises(InputError, match=f"{path}: is a {kind}.*: {names}.* would do nothing for it"):
        make_scan(path, options)


def test_bad_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        make_scan(tmp_path / "nothing", ScanOptions())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds nothing"):
        make_scan(tmp_path / "empty", ScanOptions())
    (tmp_path / "film.mp4").write_bytes(b"0" * 100)
    with pytest.raises(InputError, match="no poses"):
        make_scan(tmp_path / "film.mp4", ScanOptions())
    (tmp_path / "coord.npy").write_bytes(b"")
    with pytest.raises(
        InputError, match="a scene folder, which is in metres, z up.*: --scale would do nothing"
    ):
        make_scan(tmp_path, ScanOptions(scale=0.001))
    for options in ({"up": "north"}, {"scale": -1.0}, {"views": -1}):
        with pytest.raises(InputError):
            make_scan(glb(tmp_path, rooms.room_mesh(0.2)), ScanOptions(**options))
    assert scan_name(tmp_path / "a.ply") == "a" and scan_name(tmp_path / "rec.2024") == "rec.2024"


def test_an_option_that_is_a_list_where_text_is_wanted_is_named() -> None:
    for options in (ScanOptions(up=[0, 0, 1]), ScanOptions(views=1.5)):  # type: ignore[arg-type]
        with pytest.raises(
            InputError, match="^(up: is a list; expected text|views: found 1.5, expected a whole)"
        ):
            options.check()
