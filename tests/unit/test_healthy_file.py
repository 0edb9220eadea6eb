"""The healthy state on disk: complete, independent of what follows it, gone when the run ends."""

import errno
import os

import pytest
import torch

from bifusion.errors import InputError
from bifusion.runs.healthy import HealthyState
from bifusion.runs.healthy_file import HealthyFile
from bifusion.storage import files
from bifusion.storage.checksums import check_sum
from bifusion.storage.files import DiskFullError, free_bytes, hard_link, remove_stale
from small_disks import small_disk


def state(step, size=1000):
    return HealthyState(step, {"weight": torch.full((size,), float(step))}, {}, {})


def test_a_link_keeps_what_the_file_was(tmp_path):
    file = HealthyFile(tmp_path / "checkpoints")
    file.write(state(1))
    first = file.written()
    hard_link(first.path, tmp_path / "kept.pt")
    file.write(state(2))
    check_sum(file.written().path, file.written().sum, advice="")
    check_sum(tmp_path / "kept.pt", first.sum, advice="")
    assert torch.load(tmp_path / "kept.pt", weights_only=True)["step"] == 1
    assert torch.load(file.path, weights_only=True)["step"] == 2
    file.close()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_what_a_killed_process_left_is_swept_up(tmp_path):
    file = HealthyFile(tmp_path)
    file.write(state(1))
    path = file.written().path
    assert remove_stale(tmp_path) == [path]


def test_a_full_disk_is_told_to_who_asks_and_tried_again(tmp_path):
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        file = HealthyFile(disk)
        (disk / "filler").write_bytes(bytes(free_bytes(disk) - 50_000))
        file.write(state(1, size=50_000))
        with pytest.raises(DiskFullError, match="the disk is full"):
            file.written()
        assert not file.path.exists()
        file.write(state(2, size=50_000))  # nobody needs it yet
        (disk / "filler").unlink()
        assert torch.load(file.written().path, weights_only=True)["step"] == 2
        file.close()


def test_a_file_that_cannot_even_be_made_is_a_full_disk(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bifusion.runs.healthy_file.write_summed", refuse)
    file = HealthyFile(tmp_path)
    file.write(state(1))
    with pytest.raises(DiskFullError, match="the disk is full"):
        file.written()
    file.close()


def test_a_disk_that_changes_what_is_written_is_noticed(tmp_path, monkeypatch):
    def flip(path):
        content = bytearray(path.read_bytes())
        content[500] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr("bifusion.runs.healthy_file.forget_cached", flip)
    file = HealthyFile(tmp_path)
    file.write(state(1))
    with pytest.raises(InputError, match="the disk does not keep"):
        file.written()
    file.close()


def test_without_hard_links_there_is_a_copy(tmp_path, monkeypatch):
    def refuse(source, path):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    (tmp_path / "a").write_text("content")
    monkeypatch.setattr(files.os, "link", refuse)
    hard_link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "content"
    assert (tmp_path / "a").stat().st_ino != (tmp_path / "b").stat().st_ino
