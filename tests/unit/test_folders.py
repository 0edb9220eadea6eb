"""Folders of the product are replaced whole, and take nothing of a user's with them, killed or not."""

import os
import shutil

import numpy as np
import pytest

from bifusion.data.scene_folder import load_scene, scene_files, write_scene
from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.runs.checkpoint import checkpoint_files
from bifusion.storage.folders import (
    files_replaced,
    folder_written_beside,
    remove_folder,
    switch_link,
    tidy,
)
from bifusion.types import Scene, View

OPERATIONS = ("rename", "replace", "unlink", "rmdir", "mkdir", "link", "symlink", "fsync")
NOTES = {
    "notes.txt": "mine",
    "views/marks.json": "mine too",
    "segment.npy": "as well",
    "a/b/c": "x",
}


class Killed(BaseException):
    """The process is no more."""


class Deadly:
    """Kills at the n-th file operation; what is dead does nothing more, not even tidy up."""

    def __init__(self, monkeypatch, at):
        self.left = at
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        monkeypatch.setattr(np, "save", self.counted(np.save))

    def counted(self, work):
        def operation(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return work(*args, **kwargs)

        return operation


def write(folder, points, views=1):
    """A scene whose number of points tells which one it is."""
    scene = Scene(
        name=folder.name,
        coord=np.zeros((points, 3), np.float32),
        color=np.zeros((points, 3), np.uint8),
        superpoint=np.zeros(points, np.int32),
    )
    eye, size = np.eye(4), (8, 8)
    made = [
        View(
            name=f"{number:02d}",
            color=np.zeros((*size, 3), np.uint8),
            depth_m=np.ones(size, np.float32),
            color_K=np.array([[8, 0, 4], [0, 8, 4], [0, 0, 1.0]]),
            depth_K=np.array([[8, 0, 4], [0, 8, 4], [0, 0, 1.0]]),
            color_cam2world=eye,
            depth_cam2world=eye,
        )
        for number in range(views)
    ]
    write_scene(folder, scene, segments={}, views=made, source="test")


def add_notes(folder):
    for name, text in NOTES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "elsewhere").symlink_to("/nowhere")
    (folder / "empty").mkdir()


def notes_of(folder):
    assert os.readlink(folder / "elsewhere") == "/nowhere" and (folder / "empty").is_dir()
    return {name: (folder / name).read_text() for name in NOTES}


def points_of(folder):
    """The scene's points, read whole: all of one scene."""
    scene = load_scene(folder, SCANNET20)
    assert len(scene.coord) == len(scene.color) == len(scene.superpoint)
    for name in scene.view_names:
        assert (folder / "views" / f"{name}.jpg").is_file()
        assert (folder / "views" / f"{name}.png").is_file()
    return len(scene.coord), len(scene.view_names)


def whole_scenes(parent):
    """Points of the scenes in a folder, hidden ones too, that are whole."""
    found = set()
    for folder in parent.iterdir():
        if ".writing-" not in folder.name and (folder / "scene.json").is_file():
            try:
                found.add(points_of(folder))
            except InputError:
                continue
    return found


def test_what_others_wrote_moves_into_the_new_folder(tmp_path):
    write(tmp_path / "room", 5, views=2)
    add_notes(tmp_path / "room")
    write(tmp_path / "room", 7)
    assert points_of(tmp_path / "room") == (7, 1) and notes_of(tmp_path / "room") == NOTES
    assert sorted(path.name for path in (tmp_path / "room" / "views").iterdir()) == [
        "00.jpg", "00.png", "cameras.npz", "marks.json",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["room"]


def test_a_folder_of_others_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "room").mkdir()
    add_notes(tmp_path / "room")
    with pytest.raises(InputError, match=r"room: holds a, elsewhere, empty, notes.txt, .* and 1 more"):
        write(tmp_path / "room", 5)
    assert notes_of(tmp_path / "room") == NOTES and [p.name for p in tmp_path.iterdir()] == ["room"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_refused(tmp_path, kind):
    write(tmp_path / "other", 5)
    if kind == "file":
        (tmp_path / "room").write_text("mine")
    else:
        (tmp_path / "room").symlink_to("other")
    with pytest.raises(InputError, match=f"room: is a {kind}, expected a folder or nothing"):
        write(tmp_path / "room", 7)
    assert points_of(tmp_path / "other") == (5, 1)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "room").mkdir()
    write(tmp_path / "room", 5)
    assert points_of(tmp_path / "room") == (5, 1)


@pytest.mark.parametrize("taken", ["normal.npy", "views", "views/05.jpg"])
def test_a_file_of_others_in_the_place_of_a_new_one_is_named(tmp_path, taken):
    """Its content would be lost."""
    write(tmp_path / "room", 5, views=0)
    (tmp_path / "room" / taken).parent.mkdir(exist_ok=True)
    (tmp_path / "room" / taken).write_text("mine")
    with (
        pytest.raises(InputError, match=f"{taken}: not written by bifusion"),
        folder_written_beside(tmp_path / "room", scene_files) as beside,
    ):
        (beside / "views").mkdir()
        for name in ("normal.npy", "views/05.jpg"):
            (beside / name).write_text("new")
    assert (tmp_path / "room" / taken).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["room"]
    assert len(np.load(tmp_path / "room" / "coord.npy")) == 5


def test_a_list_of_files_cannot_reach_out_of_its_folder(tmp_path):
    write(tmp_path / "room", 5)
    (tmp_path / "mine").write_text("mine")
    description = (tmp_path / "room" / "scene.json").read_text()
    (tmp_path / "room" / "scene.json").write_text(
        description.replace('"color.npy"', f'"color.npy", "../mine", "{tmp_path}/mine"')
    )
    write(tmp_path / "room", 7)
    assert (tmp_path / "mine").read_text() == "mine"


def test_killed_at_any_moment_old_or_new_is_whole_and_notes_are_kept(tmp_path, monkeypatch):
    at, ended = 0, False
    while not ended:
        folder = tmp_path / str(at) / "room"
        write(folder, 5, views=2)
        add_notes(folder)
        with monkeypatch.context() as patch:
            Deadly(patch, at)
            try:
                write(folder, 7)
                ended = True
            except Killed:
                pass
        assert whole_scenes(folder.parent) & {(5, 2), (7, 1)}, f"killed at {at}"
        tidy(folder.parent, scene_files)
        assert points_of(folder) in {(5, 2), (7, 1)} and notes_of(folder) == NOTES, f"killed at {at}"
        assert [path.name for path in folder.parent.iterdir()] == ["room"], f"killed at {at}"
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert names - NOTES.keys() == {*scene_files(folder)}, f"killed at {at}"
        at += 1
    assert at > 40 and points_of(folder) == (7, 1)


def test_killed_while_tidying_up_too(tmp_path, monkeypatch):
    """The first kill as the old folder is being taken away, the second anywhere after it."""
    at, ended = 0, False
    while not ended:
        folder = tmp_path / str(at) / "room"
        write(folder, 5, views=2)
        add_notes(folder)
        hidden = folder.with_name(".room.replaced-1")
        folder.rename(hidden)
        write(folder, 7)
        with monkeypatch.context() as patch:
            Deadly(patch, at)
            try:
                tidy(folder.parent, scene_files)
                ended = True
            except Killed:
                pass
        tidy(folder.parent, scene_files)
        assert points_of(folder) == (7, 1) and notes_of(folder) == NOTES, f"killed at {at}"
        assert [path.name for path in folder.parent.iterdir()] == ["room"], f"killed at {at}"
        at += 1
    assert at > 10


def write_files(folder, text):
    """Files that belong together in a folder of the user's."""
    with files_replaced(folder, ["a", "b", "c"]) as beside:
        for name in ("a", "b"):
            (beside / name).write_text(text)


def test_killed_at_any_moment_no_files_of_two_stand_together(tmp_path, monkeypatch):
    at, ended = 0, False
    while not ended:
        folder = tmp_path / str(at)
        folder.mkdir()
        for name, text in {"a": "old", "b": "old", "c": "old", "notes": "mine"}.items():
            (folder / name).write_text(text)
        with monkeypatch.context() as patch:
            Deadly(patch, at)
            try:
                write_files(folder, "new")
                ended = True
            except Killed:
                pass
        there = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
        assert there.pop("notes") == "mine" and len(set(there.values())) <= 1, f"killed at {at}"
        write_files(folder, "newer")
        there = {path.name: path.read_text() for path in folder.iterdir()}
        assert there == {"a": "newer", "b": "newer", "notes": "mine"}, f"killed at {at}"
        at += 1
    assert at > 8


def test_files_that_cannot_be_written_leave_those_that_were_there(tmp_path):
    write_files(tmp_path, "old")
    with pytest.raises(ZeroDivisionError), files_replaced(tmp_path, ["a", "b"]) as beside:
        (beside / "a").write_text("new")
        raise ZeroDivisionError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="c: a folder, where a file is to be written"):
        write_files(tmp_path, "new")
    assert (tmp_path / "a").read_text() == "old"


def make_checkpoint(folder, text):
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "sums.json"):
        (folder / name).write_text(text)
    return folder


def test_notes_in_a_checkpoint_stay_when_it_goes(tmp_path):
    step = make_checkpoint(tmp_path / "step-1", "1")
    (step / "notes.txt").write_text("mine")
    for _ in range(2):
        remove_folder(step, checkpoint_files)
        assert [path.name for path in step.iterdir()] == ["notes.txt"]
    shutil.rmtree(step)
    remove_folder(make_checkpoint(tmp_path / "step-1", "1"), checkpoint_files)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_a_links_place_leaves_its_notes_to_the_target(tmp_path, monkeypatch):
    """As in a copy of a run; killed at any moment "last" is there, or comes back."""
    at, ended = 0, False
    while not ended:
        run = tmp_path / str(at)
        run.mkdir()
        make_checkpoint(run / "step-1", "1")
        last = make_checkpoint(run / "last", "copy")
        (last / "notes.txt").write_text("mine")
        with monkeypatch.context() as patch:
            Deadly(patch, at)
            try:
                switch_link(last, "step-1", checkpoint_files)
                ended = True
            except Killed:
                pass
        tidy(run, checkpoint_files)
        assert (last / "notes.txt").read_text() == "mine", f"killed at {at}"
        assert (last / "model.safetensors").read_text() in ("copy", "1"), f"killed at {at}"
        at += 1
    assert os.readlink(last) == "step-1" and at > 5
