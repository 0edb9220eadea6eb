"""Every reader of recordings with files that are cut, changed or made to lie: InputError or frames."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

import recording_factory as made
from bifusion.datasets.recordings.check import check_recording
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.text_files import parse_json, read_text
from bifusion.datasets.scan.make import make_scan
from bifusion.errors import InputError
from bifusion.untrusted.files import MOST_TEXT_BYTES

LARGE_NUMBERS = [b"1e308", b"-1", b"nan", b"99999999999999999999", b"0"]


def read_all(path) -> None:
    """What a command does: open, check, and read the first and the last frame."""
    recording = open_recording(path)
    for index in {0, len(recording) - 1}:
        frame = recording.frame(index)
        assert frame.depth_m is None or np.isfinite(frame.depth_m).all()
        assert np.isfinite(recording.cam2world(index)).all()


@pytest.mark.parametrize("linked", ["color/10.jpg", "depth", "pose/10.txt"])
def test_links_that_lead_out_of_a_recording_are_refused(linked: str, tmp_path: Path) -> None:
    """A recording of somebody else would make a picture of ours part of a scan that is then shared."""
    folder = made.scannet(tmp_path / "r", made.poses(3))
    (folder / linked).rename(tmp_path / "moved")
    (folder / linked).symlink_to(tmp_path / "moved")
    (tmp_path / "link").symlink_to(folder)
    for given in (folder, folder.parent, tmp_path / "link"):
        with pytest.raises(
            InputError, match=f"{linked}: is a link that leads out of {given}, to .*cp -r"
        ):
            open_recording(given)
    shutil.copytree(folder, tmp_path / "copy")
    assert len(open_recording(tmp_path / "copy")) == 3


def test_links_within_a_recording_and_to_it_are_followed(tmp_path: Path) -> None:
    folder = made.scannet(tmp_path / "r", made.poses(3))
    (folder / "color").rename(folder / "pictures")
    (folder / "color").symlink_to("pictures")
    (tmp_path / "link").symlink_to(folder)
    assert len(open_recording(folder)) == len(open_recording(tmp_path / "link")) == 3


def test_a_scene_folder_hands_on_no_files_of_others(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    (tmp_path / "coord.npy").touch()
    (scene / "coord.npy").symlink_to(tmp_path / "coord.npy")
    with pytest.raises(InputError, match="coord.npy: is a link that leads out"):
        make_scan(scene)


@pytest.mark.parametrize("kind", made.WRITERS)
def test_changed_files_are_read_or_refused(kind, tmp_path):
    path = made.WRITERS[kind](tmp_path / "r", made.poses(3))
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    originals = {file: file.read_bytes() for file in files}
    rng = np.random.default_rng(0)
    refused = 0
    for turn in range(40):
        file = files[rng.integers(len(files))]
        file.write_bytes(changed(originals[file], rng, turn))
        try:
            read_all(path)
        except InputError as error:
            assert len(str(error)) < 2000
            refused += 1
        file.write_bytes(originals[file])
    read_all(path)
    assert refused > 0


def changed(data: bytes, rng: np.random.Generator, turn: int) -> bytes:
    """Cut, with other bytes, or with another number for one."""
    if turn % 4 == 0:
        return data[: rng.integers(len(data))]
    if turn % 4 == 1 and b" " in data[:2000]:
        words = data.split(b" ")
        words[rng.integers(len(words))] = LARGE_NUMBERS[rng.integers(len(LARGE_NUMBERS))]
        return b" ".join(words)
    other = bytearray(data)
    for _ in range(1 + turn % 5):
        other[rng.integers(len(data))] = rng.integers(256)
    return bytes(other)


def test_a_changed_header_of_a_sens_file(tmp_path):
    """Each of its four-byte words in turn, by numbers that overflow something."""
    path = made.sens(tmp_path, made.poses(3))
    whole = path.read_bytes()
    for at in range(0, 18 + 256 + 40, 4):
        for number in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000):
            path.write_bytes(whole[:at] + struct.pack("<I", number) + whole[at + 4 :])
            try:
                read_all(path)
            except InputError:
                continue


def test_lists_without_end(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="not valid JSON"):
        parse_json("[" * 100_000, "x.json")
    path = tmp_path / "rgb.txt"
    with open(path, "wb") as file:
        file.truncate(MOST_TEXT_BYTES + 1)  # takes no room on the disk
    with pytest.raises(InputError, match="expected at most"):
        read_text(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no text"):
        read_text(path)


@pytest.mark.parametrize(
    "metadata",
    [
        [], {}, {"w": 1, "h": 1}, {"w": "a", "h": 2}, {"w": 192, "h": 144, "K": [1, 2]},
        {"w": 192, "h": 144, "K": [0] * 9, "poses": [[0, 0, 0, 1, 0, 0, 0]] * 3},
        {"w": 192, "h": 144, "K": [1e300] * 9, "poses": [[0, 0, 0, 1, 0, 0, 0]] * 3},
        {"w": 192, "h": 144, "K": [1] * 9, "poses": [[0, 0, 0, 0, 0, 0, 0]] * 3},
        {"w": 192, "h": 144, "K": [1] * 9, "poses": {"a": 1}},
        {"w": 192, "h": 144, "K": [1] * 9, "poses": [["x"] * 7]},
        {"w": 192, "h": 144, "K": None, "poses": []}, {"w": 10**400, "h": 1}, {"w": -1, "h": 0},
    ],
)  # fmt: skip
def test_metadata_that_says_something_else(metadata, tmp_path):
    folder = made.record3d(tmp_path, made.poses(3))
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError):
        check_recording(open_recording(folder))
