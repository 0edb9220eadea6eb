"""`bifusion scan` and `prepare scan`, from an input on disk to a labelled scan."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import needs
import room_meshes as rooms
import untrained_runs
from bifusion.cli import COMMANDS
from bifusion.commands.scan import scan
from bifusion.commands.viewing import view
from bifusion.data.view_files import load_cameras
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.errors import InputError
from bifusion.inference.scan_files import FILES
from bifusion.labels.sets import SCANNET20
from bifusion.storage.files import locked
from bifusion.viewer.found import instances_of, show_with
from scene_factory import ROOM, make_tiny_scene, make_view

SIZE = (120, 90)
"""Width, height of the rendered pictures."""


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained runs: with pictures, and without."""
    root = tmp_path_factory.mktemp("scan-runs")
    makers = {"bifusion": untrained_runs.bifusion, "baseline": untrained_runs.baseline}
    return {name: untrained_runs.save_run(root / name, make()) for name, make in makers.items()}


def record(folder: Path, count: int = 8) -> Path:
    """A recording of the room of scene_factory, in ScanNet's layout, y up and 2 km away."""
    rng = np.random.default_rng(0)
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = rooms.Y_UP, (2000, 0, 0)
    for index in range(count):
        made = make_view(index, rng, SIZE, SIZE, 0.0)
        Image.fromarray(made.color).save(folder / "color" / f"{index}.jpg", quality=95)
        depth = np.rint(made.depth_m * 1000).astype(np.uint16)
        Image.fromarray(depth).save(folder / "depth" / f"{index}.png")
        np.savetxt(folder / "pose" / f"{index}.txt", world @ made.color_cam2world)
        matrix = np.eye(4)
        matrix[:3, :3] = made.color_K
        for camera in ("color", "depth"):
            np.savetxt(folder / "intrinsic" / f"intrinsic_{camera}.txt", matrix)
    return folder


def test_a_recording_becomes_a_labelled_scan(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording, out = record(tmp_path / "room"), tmp_path / "out"
    (recording / "color" / "3.jpg").write_bytes(b"cut")
    arguments = [str(recording), "--run", str(runs["bifusion"]), "--out", str(out)]
    assert COMMANDS["scan"]([*arguments, "--up", "y", "--voxel-size-m", "0.05"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "8 frames with pose in layout scannet" in said and "agree to" in said
    assert "1 frames left out" in said and "3.jpg" in said and "far from the origin" in said

    assert all((out / name).is_file() for name in (*FILES, "view.html", "scan.json"))
    mesh, labels = read_mesh_file(out / "classes.ply"), np.load(out / "labels.npy")
    assert len(labels) == len(mesh.coord) == len(np.loadtxt(out / "labels.txt"))
    low, high = mesh.coord.min(axis=0), mesh.coord.max(axis=0)  # in the recording's own world
    assert np.abs(low - (2000, 0, -ROOM[1, 1])).max() < 0.1
    assert np.abs((high - (2000 + ROOM[1, 0], 0, 0))[[0, 2]]).max() < 0.1
    assert 0.75 < high[1] < ROOM[1, 2] + 0.1  # cameras look down
    cameras = load_cameras(out / "scene")
    assert len(cameras.names) == 2  # as many as the model was trained with
    shown = show_with(out / "scene", out)  # as `bifusion find --prediction` reads it
    assert shown.predicted is not None and instances_of(shown) is not None
    assert [one.color for one in shown.classes] == [one.color for one in SCANNET20.classes]
    assert np.array_equal(shown.predicted.semantic[: len(labels)], labels)
    assert np.array_equal(shown.predicted.instance[: len(labels)], np.load(out / "instances.npy"))
    with pytest.raises(InputError, match="name the scene that the scan was made of"):
        show_with(make_tiny_scene(tmp_path / "val" / "other"), out)
    assert np.abs(cameras.color_cam2world[:, :3, 3]).max() < 5
    assert (out / "classes.ply").stat().st_size > 10_000
    objects = json.loads((out / "objects.json").read_text())["objects"]
    assert len((out / "objects.csv").read_text().splitlines()) == 1 + len(objects)
    assert f": {len(labels):,} vertices, {len(objects)} objects (" in said
    page = (out / "view.html").read_text(encoding="utf-8")
    assert "agree to" in page
    assert view([str(out), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page


def test_an_output_folder_is_whole_or_as_it_was(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh = rooms.write_ply(tmp_path / "room.ply", rooms.room_mesh(0.1))
    out = tmp_path / "out"
    arguments = ["--run", str(runs["bifusion"]), "--out", str(out)]
    assert scan([str(mesh), *arguments]) == 0
    assert "TRAINED WITH PICTURES" in capsys.readouterr().out
    (out / "notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(InputError, match="no such file"):
        scan([str(tmp_path / "gone.ply"), *arguments])
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert scan([str(out / "scene"), *arguments[:3], str(tmp_path / "again")]) == 0
    first, again = (np.load(folder / "labels.npy") for folder in (out, tmp_path / "again"))
    assert np.array_equal(first, again[: len(first)])  # points in between are points of the scene too
    assert scan([str(mesh), *arguments]) == 0 and (out / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="thesis"):
        scan([str(mesh), *arguments[:3], str(tmp_path / "other")])


def test_what_is_wrong_is_told_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = rooms.write_ply(tmp_path / "room.ply", rooms.room_mesh(0.2))
    out, no_run = tmp_path / "out", ["--run", str(tmp_path / "no_run")]
    with pytest.raises(InputError, match="scale"):
        scan([str(mesh), *no_run, "--out", str(out), "--scale", "-1"])
    with pytest.raises(InputError, match="gone.ply: no such file"):
        scan([str(tmp_path / "gone.ply"), *no_run, "--out", str(out)])
    assert not out.exists()
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "inner")
    with pytest.raises(InputError, match="mine: holds inner"):
        scan([str(mesh), *no_run, "--out", ".."])
    with pytest.raises(InputError, match="no_run"):  # an empty folder may be written
        scan([str(mesh), *no_run, "--out", "."])


def test_what_a_killed_scan_left_is_taken_up(tmp_path: Path) -> None:
    mesh = rooms.write_ply(tmp_path / "room.ply", rooms.room_mesh(0.2))
    old, half = tmp_path / ".out.replaced-1", tmp_path / ".out.writing-1"
    for folder in (old, half, tmp_path / ".other.writing-1"):
        folder.mkdir()
    (old / "scan.json").write_text('{"versions": {}}')
    with pytest.raises(InputError, match="no_run"):
        scan([str(mesh), "--run", str(tmp_path / "no_run"), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "scan.json").is_file() and not old.exists() and not half.exists()
    assert (tmp_path / ".other.writing-1").is_dir()
    with locked(tmp_path, name=".out.lock"):
        code = "import sys; from bifusion.commands.scan import scan; scan(sys.argv[1:])"
        command = [sys.executable, "-c", code, str(mesh), "--run", "no_run", "--out"]
        process = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True)
    assert process.returncode != 0 and "another process is writing here" in process.stderr


def test_prepare_scan_fails_where_an_input_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh = rooms.write_ply(tmp_path / "room.ply", rooms.room_mesh(0.1))
    broken = tmp_path / "broken.ply"
    shutil.copy(mesh, broken)
    broken.write_bytes(broken.read_bytes()[:3000])
    arguments = ["scan", str(mesh), str(broken), "--out", str(tmp_path / "scenes")]
    assert COMMANDS["prepare"](arguments) == 1
    printed = capsys.readouterr()
    assert "1 scene written" in printed.out and "broken.ply" in printed.err
    assert COMMANDS["prepare"]([*arguments[:2], *arguments[3:]]) == 0
    assert "0 scenes written, 1 kept" in capsys.readouterr().out


REAL = {
    "scannet/scans/scene0000_00/scene0000_00_vh_clean_2.ply": ("in metres", "by its floor"),
    "rgbd_open3d5": ("5 frames", "agree to 8", "up is y, by its cameras"),
    "recordings/record3d_exr/EXR_RGBD": ("15 frames", "agree to 4", "up is y, by the format"),
    "rgbd_redkitchen": ("25 frames", "agree to 14", "by its cameras"),
    "scannet/rgbd_scene0000_00": ("25 frames", "agree to 18", "up is z, by the format"),
}
"""Sample → words of its printed checks."""
SLOW = "scannet/rgbd_scene0000_00"


@pytest.mark.real_data
@pytest.mark.parametrize(
    "sample", [pytest.param(name, marks=[pytest.mark.slow] * (name == SLOW)) for name in REAL]
)
def test_real_samples(
    sample: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = needs.folder("BIFUSION_REAL_DATA", "data") / sample
    if not path.exists():
        needs.lacking("real_data", path)
    run = runs["baseline" if path.suffix == ".ply" else "bifusion"]
    assert scan([str(path), "--run", str(run), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert [words for words in REAL[sample] if words not in said] == []
    assert (tmp_path / "out" / "view.html").stat().st_size < 15_000_000
