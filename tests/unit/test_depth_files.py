"""Depth that is stored as floats, as arrays or pictures, where recordings mostly have 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import phone_recordings as phones
import recording_factory as made
from bifusion.data.view_files import load_view
from bifusion.datasets.recordings.check import check_recording
from bifusion.datasets.recordings.depth_files import FLOATS, read_depth_file
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.scannet.views import ViewOptions
from bifusion.errors import InputError
from scannet_release import NAME, make_scan, prepare

WALK = made.poses(4)
Store = Callable[[Path, np.ndarray], object]


def as_npy(path: Path, depth_m: np.ndarray) -> None:
    np.save(path.with_suffix(".npy"), depth_m.astype(np.float32))


def as_bytes(path: Path, depth_m: np.ndarray) -> None:
    millimetres = np.nan_to_num(1000 * depth_m, nan=0, posinf=65535).clip(0)
    np.save(path.with_suffix(".npy"), millimetres.astype(np.uint16)[None])


def as_tiff(path: Path, depth_m: np.ndarray) -> None:
    Image.fromarray(depth_m.astype(np.float32)).save(path.with_suffix(".tiff"))


def as_exr(path: Path, depth_m: np.ndarray) -> None:
    made.write_exr(path.with_suffix(".exr"), depth_m)


def stored_as(store: Store, paths: list[Path], factor: float = 1.0) -> None:
    """In place of the pictures of depth, with a pixel of each kind that is none."""
    for pose, path in zip(
        WALK, sorted(paths, key=lambda path: (len(path.name), path.name)), strict=True
    ):
        depth_m = factor * made.depth_of(pose)
        depth_m[0, :4] = np.nan, np.inf, 0, -1
        path.unlink()
        store(path, depth_m)


def check(folder: Path, options: OpenOptions | None = None, notes: tuple[str, ...] = (FLOATS,)) -> None:
    recording = open_recording(folder, options)
    for index, pose in enumerate(WALK):
        depth_m = recording.frame(index).depth_m
        assert depth_m is not None and depth_m.dtype == np.float32
        assert np.abs(depth_m[1:] - made.depth_of(pose)[1:]).max() < 3e-3
        assert not depth_m[0, :4].any()
    check_recording(recording)
    assert tuple(note for note in recording.notes if note.startswith("depth")) == notes


@pytest.mark.parametrize("store", [as_npy, as_tiff, as_exr, as_bytes])
def test_depth_of_every_kind_is_read(tmp_path, store):
    folder = made.scannet(tmp_path, WALK)
    stored_as(store, [*folder.glob("depth/*.png")])
    check(folder, notes=() if store is as_bytes else (FLOATS,))


@pytest.mark.parametrize(
    ("write", "pictures"),
    [(made.open3d, "depth/*"), (made.hololens, "depth/*"), (made.seven_scenes, "*.depth.png")],
)
def test_floats_are_metres_in_every_layout(tmp_path, write, pictures):
    stored_as(as_npy, [*write(tmp_path, WALK).glob(pictures)])
    check(tmp_path)


def test_the_unit_of_floats_can_be_given_and_is_asked_for(tmp_path):
    folder = made.scannet(tmp_path, WALK)
    stored_as(as_npy, [*folder.glob("depth/*.png")], 1000)
    check(folder, OpenOptions(depth_scale=1000), ())
    with pytest.raises(InputError, match="which no room has, with 1 units a metre; give --depth-scale"):
        check_recording(open_recording(folder))


@pytest.mark.parametrize("units", [1, 1000])
def test_floats_of_nerfstudio_are_metres_or_millimetres(tmp_path, units):
    phones.nerfstudio(tmp_path, WALK)
    stored_as(as_npy, [*tmp_path.glob("depth/*.png")], units)
    path = tmp_path / "transforms.json"
    path.write_text(path.read_text().replace("png", "npy"))
    recording = open_recording(tmp_path)
    assert recording.depth_scale == units and FLOATS not in recording.notes
    assert f"depth has {units} units a metre" in " ".join(recording.notes)


def test_floats_of_tum_are_metres(tmp_path):
    folder = made.tum(tmp_path / "own", WALK)
    (folder / "K.txt").write_text("80 80 47.5 35.5")
    stored_as(as_tiff, [*folder.glob("depth/*.png")])
    listed = folder / "depth.txt"
    listed.write_text(listed.read_text().replace(".png", ".tiff"))
    assert open_recording(folder).depth_scale == 1


@pytest.mark.parametrize(("scale", "stored"), [(1000.0, 1.5), (100.0, 150.0)])
def test_floats_beside_a_scan_of_scannet_are_metres_unless_it_is_said(tmp_path, scale, stored):
    released = make_scan(tmp_path)
    for path in released.glob("posed_images/*/*.png"):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.full((24, 32), stored, np.float32))
    prepare(released, view_options=ViewOptions(depth_scale=scale))
    assert np.allclose(load_view(released / "out" / "train" / NAME, "00000").depth_m, 1.5)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5, 3), np.float32), r"is float32 of shape \(4, 5, 3\); expected a depth map"),
        (np.zeros(7, np.float32), r"is float32 of shape \(7,\); expected"),
        (np.zeros((4, 5), bool), "is bool of shape"),
    ],
)
def test_arrays_that_are_no_depth(tmp_path, array, words):
    np.save(tmp_path / "0.npy", array)
    with pytest.raises(InputError, match=rf"0\.npy: {words}"):
        read_depth_file(tmp_path / "0.npy", 1)
