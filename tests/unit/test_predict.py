"""A scene folder and a checkpoint in, PLY files and JSON out."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import trimesh
from plyfile import PlyData, PlyElement

import recording_factory as made_recordings
from bifusion.cli import main
from bifusion.data.scene_folder import read_offset
from bifusion.errors import InputError
from bifusion.inference.export import INSTANCES_SCHEMA
from bifusion.inference.segmenter import Segmenter, dataset_of, trained_control
from bifusion.sparse.backends import backend_for
from scene_factory import make_tiny_scene
from untrained_runs import baseline, bifusion, save_run


@pytest.mark.parametrize("config", [baseline(), bifusion()], ids=["oneformer3d", "bifusion"])
@pytest.mark.parametrize(("annotated", "num_views"), [(True, 2), (False, 0)], ids=["full", "bare"])
def test_predicts_a_scene_folder(tmp_path, config, annotated, num_views) -> None:
    scene = make_tiny_scene(tmp_path / "data" / "room", annotated=annotated, num_views=num_views)
    segmenter = Segmenter(save_run(tmp_path / "run", config), device="cpu")
    paths = segmenter.predict(scene).write(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in paths)
    coord = np.load(scene / "coord.npy")
    for path in paths[:2]:
        vertices = PlyData.read(str(path))["vertex"]
        assert np.array_equal(np.column_stack([vertices[axis] for axis in "xyz"]), coord)
    document = json.loads(paths[2].read_text())
    jsonschema.validate(document, INSTANCES_SCHEMA)
    assert (document["scene"], document["num_points"]) == ("room", len(coord))


def test_annotation_does_not_change_the_prediction(tmp_path) -> None:
    run = save_run(tmp_path / "run", bifusion())
    written = []
    for annotated in (True, False):
        scene = make_tiny_scene(tmp_path / str(annotated) / "room", annotated=annotated)
        paths = Segmenter(run, device="cpu").predict(scene).write(tmp_path / f"out-{annotated}")
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def test_scene_is_found_among_others_and_by_a_relative_path(tmp_path, monkeypatch) -> None:
    for name in ("a", "b", "c"):
        make_tiny_scene(tmp_path / name, num_views=0)
    dataset, index = dataset_of(tmp_path / "b", baseline().data)
    assert dataset.names[index] == "b" and dataset.sample(index, 0).name == "b"
    monkeypatch.chdir(tmp_path / "c")
    segmenter = Segmenter(save_run(tmp_path / "run", baseline()), device="cpu")
    paths = segmenter.predict(Path(".")).write(tmp_path / "out")
    assert json.loads(paths[2].read_text())["scene"] == "c"


def test_the_command_keeps_freed_memory_and_the_library_does_not(tmp_path, monkeypatch) -> None:
    asked = []
    backend = backend_for(torch.device("cpu"))
    monkeypatch.setattr(backend, "keep_freed_memory", lambda: asked.append(True))
    run = save_run(tmp_path / "run", baseline())
    scene = make_tiny_scene(tmp_path / "data" / "room", num_views=0)
    Segmenter(run, device="cpu").predict(scene).write(tmp_path / "out")
    assert not asked
    with pytest.raises(SystemExit, match="0"):
        main(["predict", str(run), str(scene), "--out", str(tmp_path / "out"), "--no-view"])
    assert asked == [True]


def test_fusion_acts_as_when_the_checkpoint_was_saved(tmp_path) -> None:
    config = bifusion()
    early = save_run(tmp_path / "early", config, epoch=2.0) / "checkpoints" / "last"
    assert trained_control(early, config).run_2d is False
    late = save_run(tmp_path / "late", config, epoch=4.0) / "checkpoints" / "last"
    assert trained_control(late, config).fixed_alpha == 0.25
    (late / "training.pt").unlink()
    assert trained_control(late, config).fixed_alpha == 0.25


def write_cloud(path: Path, coord: np.ndarray) -> None:
    vertex = np.zeros(
        len(coord), [*((a, "f8") for a in "xyz"), *((c, "f4") for c in ("red", "green", "blue"))]
    )
    for column, axis in enumerate("xyz"):
        vertex[axis] = coord[:, column]
    vertex["green"] = np.linspace(0, 1, len(coord))
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(path))


@pytest.mark.parametrize("offset", [(0, 0, 0), (500_000.25, 4e6, 12)])
def test_predicts_a_ply_file_where_it_lies(offset, tmp_path, monkeypatch, capsys) -> None:
    """In double precision if it is far from the origin; by the command, and as `prepare scan` has it."""
    run = save_run(tmp_path / "run", baseline())
    coord = np.random.default_rng(0).random((600, 3)) * (2, 2, 0.02) + offset
    write_cloud(tmp_path / "hall.ply", coord)
    for args in (
        ["predict", run, tmp_path / "hall.ply", "--out", tmp_path / "out"],
        ["prepare", "scan", tmp_path / "hall.ply", "--out", tmp_path / "data", "--up", "z"],
        ["predict", run, tmp_path / "data" / "hall", "--out", tmp_path / "again", "--no-view"],
    ):
        monkeypatch.setattr("sys.argv", ["bifusion", *map(str, args)])
        with pytest.raises(SystemExit, match="0"):
            main()
    printed = " ".join(capsys.readouterr().out.split())
    assert "hall.ply: colours are stored as float32 from 0 to 1: scaled" in printed
    assert "1/1 hall: written colours" in printed or "1 scene written, 0 kept" in printed
    assert '["r",1]' in (tmp_path / "out" / "view.html").read_text()  # the file's colours
    assert not (tmp_path / "again" / "view.html").exists()
    vertex = PlyData.read(str(tmp_path / "out" / "semantic.ply"))["vertex"]
    assert np.abs(np.column_stack([vertex[axis] for axis in "xyz"]) - coord).max() < 1e-6
    document = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert document["scene"] == "hall"
    for segment in document["segments"]:
        assert np.all(np.array(segment["bounds_m"]["min"]) >= coord.min(axis=0) - 1e-6)
    for name in ("semantic.ply", "instance.ply", "instances.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("ending", ["obj", "glb"])
def test_predicts_other_mesh_files(ending, tmp_path, monkeypatch, capsys) -> None:
    """A floor with y up, told by the format or by the user, comes out with z up, vertex by vertex."""
    flat = trimesh.creation.box((3, 0.1, 3)).subdivide().subdivide().subdivide()
    flat.visual.vertex_colors = np.tile((9, 99, 9, 255), (len(flat.vertices), 1))
    path = tmp_path / f"hall.{ending}"
    flat.export(str(path))
    args = ["predict", save_run(tmp_path / "run", baseline()), path, "--out", tmp_path / "out"]
    args += ["--up", "y"] if ending == "obj" else []
    monkeypatch.setattr("sys.argv", ["bifusion", *map(str, args)])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "y was taken to point up" in " ".join(capsys.readouterr().out.split())
    vertex = PlyData.read(str(tmp_path / "out" / "semantic.ply"))["vertex"]
    x, y, z = flat.vertices.T
    found = np.column_stack([vertex[axis] for axis in "xyz"])
    assert np.abs(found - np.column_stack([x, -z, y])).max() < 1e-6


def test_case_ply_to_predict(cases, tmp_path) -> None:
    mesh = cases / "binary_ok" / "scans" / "room" / "room_vh_clean_2.ply"
    run = save_run(tmp_path / "run", baseline())
    segmentation = Segmenter(run, device="cpu").predict(mesh)
    paths = segmentation.write(tmp_path / "out")
    assert segmentation.notes == [] and len(PlyData.read(str(paths[0]))["vertex"].data) == 512


def test_ply_files_that_cannot_be_predicted(tmp_path) -> None:
    run = save_run(tmp_path / "run", baseline())
    with pytest.raises(InputError, match="no.ply: missing"):
        Segmenter(run, device="cpu").predict(tmp_path / "no.ply").write(tmp_path / "out")
    write_cloud(tmp_path / "hall.ply", np.zeros((3, 3)))
    with pytest.raises(InputError, match="scale: found 0"):
        Segmenter(run).predict(tmp_path / "hall.ply", scale=0)
    with pytest.raises(InputError, match="no checkpoint"):
        Segmenter(tmp_path).predict(tmp_path / "hall.ply").write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recording_is_sent_to_scan(tmp_path) -> None:
    segmenter = Segmenter(save_run(tmp_path / "run", baseline()), device="cpu")
    folder = made_recordings.seven_scenes(tmp_path / "r", made_recordings.poses(2))
    for recording, layout in ((folder, "7scenes"), (tmp_path / "r.sens", "sens")):
        recording.touch()
        with pytest.raises(InputError, match=rf"is a recording \({layout}\); `bifusion scan` labels it"):
            segmenter.predict(recording)


def test_damaged_offset_is_named(tmp_path) -> None:
    scene = make_tiny_scene(tmp_path / "room", num_views=0)
    described = json.loads((scene / "scene.json").read_text())
    for wrong in ([1, 2], "far", [1, 2, None]):
        (scene / "scene.json").write_text(json.dumps({**described, "offset_m": wrong}))
        with pytest.raises(InputError, match="scene.json: offset_m is"):
            read_offset(scene)


def test_missing_scene_or_checkpoint_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        Segmenter(tmp_path).predict(tmp_path / "room").write(tmp_path / "out")
    run = save_run(tmp_path / "run", baseline())
    with pytest.raises(InputError, match="room"):
        Segmenter(run, device="cpu").predict(tmp_path / "room").write(tmp_path / "out")
    assert not (tmp_path / "out").exists()
