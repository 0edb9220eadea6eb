"""Files and folders appear whole or not at all, and a full disk is named."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bifusion.errors import InputError
from bifusion.storage.files import (
    DiskFullError,
    free_bytes,
    remove_stale,
    write_array,
    write_tensors,
    write_text,
    written_beside,
)
from bifusion.storage.folders import folder_written_beside, switch_link, tidy
from small_disks import small_disk


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "new" / "x.txt", "before")
    with pytest.raises(ZeroDivisionError), written_beside(tmp_path / "new" / "x.txt") as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "new" / "x.txt").read_text() == "before"
    assert names(tmp_path / "new") == ["x.txt"]


def all_of(folder):
    return names(folder) if folder.is_dir() else []


def test_a_folder_is_replaced_whole_or_not(tmp_path):
    for text in ("first", "second"):
        with folder_written_beside(tmp_path / "scene", all_of) as beside:
            (beside / text).write_text(text)
    assert names(tmp_path / "scene") == ["second"]
    with pytest.raises(ZeroDivisionError), folder_written_beside(tmp_path / "scene", all_of) as beside:
        (beside / "third").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path / "scene") == ["second"] and names(tmp_path) == ["scene"]


def test_leftovers_are_swept_up_and_nothing_else(tmp_path):
    users = ("x.txt", ".lock", ".hidden", ".thesis.writing-plan", "x.writing-12")
    for name in (".x.txt.writing-12", ".step-1.removing-12/a", ".step-2.writing-12/a", *users):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / ".last.writing-12").symlink_to("nowhere")
    assert len(remove_stale(tmp_path)) == 2
    assert len(tidy(tmp_path, all_of)) == 2
    assert names(tmp_path) == sorted(users)


def test_a_link_is_switched_and_a_folder_in_its_place_goes(tmp_path):
    for name in ("a", "b", "last"):
        (tmp_path / name).mkdir()
    for target in ("a", "b"):
        switch_link(tmp_path / "last", target, all_of)
        assert os.readlink(tmp_path / "last") == target
    assert names(tmp_path) == ["a", "b", "last"]


def save_array(path):
    with written_beside(path) as beside:
        write_array(beside, np.zeros(2**20))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 2**21),
        lambda path: write_tensors(path, {"x": torch.zeros(2**20)}),
        save_array,
    ],
)
def test_every_writer_names_a_full_disk(tmp_path, write):
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        free = free_bytes(disk)
        with pytest.raises(DiskFullError, match=r"disk/x: cannot be written, the disk is full.*free"):
            write(disk / "x")
        assert names(disk) == [] and free_bytes(disk) == free


def test_a_full_disk_is_both_an_input_and_a_system_error():
    """The command line prints the one without a traceback; a cache, which can do without, catches the
    other."""
    assert issubclass(DiskFullError, InputError) and issubclass(DiskFullError, OSError)


def test_tensors_and_their_description_come_back(tmp_path):
    write_tensors(tmp_path / "x", {"a": torch.arange(3)}, {"description": "three numbers"})
    assert load_file(tmp_path / "x")["a"].tolist() == [0, 1, 2]
