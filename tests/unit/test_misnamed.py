"""Files whose names say another thing than their content, folders that are called otherwise."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import bifusion
from bifusion.cli import main
from bifusion.data.scene_source import SceneFolders
from bifusion.datasets.check.run import check_data
from bifusion.errors import InputError
from bifusion.labels.table import read_table
from bifusion.models.towers.weight_files import open_weights
from bifusion.official.import_checkpoint import read_checkpoint
from bifusion.runs.checkpoint import find_checkpoint
from bifusion.storage.files import locked
from bifusion.viewer.prediction import open_scan

TENSORS = {"visual.conv1.weight": torch.ones(2)}


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "MODEL.SAFETENSORS", "blob"])
def test_safetensors_are_known_by_their_beginning(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / name)
    with open_weights(tmp_path / name) as weights:
        assert weights.names == list(TENSORS)
    with pytest.raises(InputError, match="no network known here; its 1 tensors begin with visual"):
        read_checkpoint(tmp_path / name)


def test_what_torch_saved_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for zipped in (True, False):
        torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
        with open_weights(path) as weights:
            assert weights.names == list(TENSORS)


def test_a_damaged_file_is_called_what_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"not found, said the server")
    with (
        pytest.raises(InputError, match="no readable safetensors"),
        open_weights(tmp_path / "m.safetensors"),
    ):
        pass


def test_a_whole_module_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pth")
    with pytest.raises(
        InputError, match=r"expected a state dict.*torch\.save\(model\.state_dict\(\), FILE"
    ):
        read_checkpoint(tmp_path / "m.pth")


def test_splits_of_other_names_are_no_scenes(tmp_path: Path) -> None:
    """They were called scenes that lack their arrays, to be made by a command that had made them."""
    scene = tmp_path / "training" / "room"
    scene.mkdir(parents=True)
    np.save(scene / "coord.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match="its scenes lie in training; a data set's lie in train/, val/"):
        check_data(tmp_path, workers=0)
    assert len(check_data(tmp_path / "training", workers=0).scenes) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.npz", "nothing says which are places .*bifusion.write_scene"),
        ("a.pth", "bifusion.write_scene"),
        ("a.off", "a kind that is not read; export it as .ply, .obj or .glb"),
        ("a.rcp", "its maker's program alone reads; export it there as .e57"),
    ],
)
def test_arrays_and_makers_own_files_are_no_archives(tmp_path: Path, name: str, words: str) -> None:
    """Those of numpy and torch are ZIP archives inside, and were to be unpacked."""
    with ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("coord.npy", b"")
    with pytest.raises(InputError, match=f"{name}: .*{words}"):
        bifusion.open_recording(tmp_path / name)
    with pytest.raises(InputError, match=f"holds {name}, no recording; {name}: .*{words}"):
        bifusion.open_recording(tmp_path)
    (tmp_path / "v.mp4").touch()
    if "write_scene" in words:
        with pytest.raises(InputError, match="v.mp4: a video has no poses"):
            bifusion.open_recording(tmp_path)


def test_lines_of_commas_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("name,kind\nwall,stuff\n,\nchair,thing\n,\n")
    labels, _ = read_table(tmp_path / "c.csv", "mine")
    assert labels.class_names == ("wall", "chair")


def test_faces_counted_from_1_are_told(tmp_path: Path) -> None:
    coord, color = np.eye(3), np.arange(9).reshape(3, 3)
    with pytest.raises(
        InputError, match="from 1 to 3; expected 0 to 2, as coord has 3 points; subtract 1"
    ):
        bifusion.make_scene(coord, color, faces=[[1, 2, 3]])
    assert len(bifusion.make_scene(coord, color, faces=[]).coord) == 3


def test_a_mesh_files_scale_and_a_runs_folder_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scale: found 0.001; expected metres a unit"):
        bifusion.open_scene(tmp_path / "room.ply", scale="0.001")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"up: found \['z'\]; expected one of"):
        bifusion.open_scene(tmp_path / "room.ply", up=["z"])  # type: ignore[arg-type]
    (tmp_path / "taken").write_text("")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "run"):
        with (
            pytest.raises(InputError, match="taken.*: is a file, or below one; expected a folder"),
            locked(folder),
        ):
            pass


def test_a_file_of_another_kind_is_no_missing_scene_folder(tmp_path: Path) -> None:
    (tmp_path / "room.fbx").write_text("Kaydara FBX")
    words = r"room\.fbx: is no mesh file that is known; expected .*; unpack an archive, export"
    with pytest.raises(InputError, match=words):
        bifusion.open_scene(tmp_path / "room.fbx")
    renamed = tmp_path / "room.ply.old"
    renamed.write_bytes(b"ply\n")
    with pytest.raises(InputError, match="the header has no line 'end_header'"):
        bifusion.open_scene(renamed)


def test_a_folder_of_scenes_is_no_scene(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "rooms" / "val" / name).mkdir(parents=True)
        (tmp_path / "rooms" / "val" / name / "coord.npy").touch()
    with pytest.raises(InputError, match="val: is no scene folder but holds some: one, two; give one"):
        bifusion.open_scene(tmp_path / "rooms" / "val")
    with pytest.raises(InputError, match="rooms: is no scene folder but holds some: val/one, val/two"):
        bifusion.open_scene(tmp_path / "rooms")
    with pytest.raises(InputError, match="val: is no scene folder but holds some: one, two; give one"):
        bifusion.make_scan(tmp_path / "rooms" / "val")
    with pytest.raises(
        InputError, match="val: is a split, .* expected the data set that it is in, .*rooms"
    ):
        SceneFolders(tmp_path / "rooms" / "val" / "train", None, read_views=False)


def test_a_folder_of_data_sets_is_no_data_set(tmp_path: Path) -> None:
    for name in ("mine", "yours"):
        (tmp_path / "data" / name / "val" / "room").mkdir(parents=True)
        (tmp_path / "data" / name / "val" / "room" / "coord.npy").touch()
    for refused in (bifusion.open_scene, open_scan):
        with pytest.raises(
            InputError, match="data: is no scene folder but holds data sets: mine, yours; give"
        ):
            refused(tmp_path / "data")
    with pytest.raises(InputError, match="data: is no data set but holds some: mine, yours; give one"):
        SceneFolders(tmp_path / "data" / "val", None, read_views=False)
    with pytest.raises(InputError, match="mine: is no scene folder but holds some: val/room; give one"):
        open_scan(tmp_path / "data" / "mine")


def test_a_data_set_that_is_not_there_is_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "rooms.csv").touch()
    with pytest.raises(InputError, match="typo: no such folder; expected a data set"):
        SceneFolders(tmp_path / "typo" / "train", None, read_views=False)
    with pytest.raises(InputError, match=r"rooms\.csv: is a file; expected a data set, a split or"):
        check_data(tmp_path / "rooms.csv", workers=0)
    with pytest.raises(InputError, match=r"rooms\.csv: is a file; expected a data set, a folder with"):
        SceneFolders(tmp_path / "rooms.csv" / "train", None, read_views=False)


def test_a_folder_of_runs_names_them(tmp_path: Path) -> None:
    last = tmp_path / "runs" / "first" / "checkpoints" / "last"
    last.mkdir(parents=True)
    (last / "model.safetensors").touch()
    with pytest.raises(InputError, match="runs: no checkpoint here; .*holds the runs first: give one"):
        find_checkpoint(tmp_path / "runs")


def test_classes_are_written_to_a_file_and_no_folder(tmp_path: Path, capsys) -> None:
    (tmp_path / "classes.csv").write_text("name,kind\nwall,stuff\nlamp,thing\n")
    with pytest.raises(SystemExit, match="2"):
        main(["labels", "--from", str(tmp_path / "classes.csv"), "--out", str(tmp_path)])
    assert "is a folder; expected the file to write, such as" in capsys.readouterr().err
