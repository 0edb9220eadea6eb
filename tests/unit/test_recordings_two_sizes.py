"""Colour larger than depth, with one camera of both: whose it is."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import phone_recordings as phones
import recording_factory as made
from bifusion.data.images import resize_intrinsics
from bifusion.datasets.recordings.intrinsics import given_intrinsics
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.scannet.posed_images import find_posed_images
from bifusion.errors import InputError
from refused_recordings import refused

LARGE = (2 * made.SIZE[0], 2 * made.SIZE[1])
LARGE_K = resize_intrinsics(made.K, made.SIZE, LARGE)


def enlarged(folder: Path, size: tuple[int, int] = LARGE) -> Path:
    """A recording of one camera, the same but for the size of its colour pictures."""
    for path in (*folder.glob("rgb/*"), *folder.glob("color/*"), *folder.glob("*.color.png")):
        Image.open(path).resize(size).save(path)
    return folder


def checked(folder: Path, options: OpenOptions | None = None) -> list[str]:
    recording = open_recording(folder, options)
    frame = recording.frame(1)
    assert frame.color_camera is not None and frame.depth_camera is not None
    assert np.allclose(frame.color_camera.K, LARGE_K) and np.allclose(frame.depth_camera.K, made.K)
    assert frame.color_camera.size == LARGE[::-1] and frame.depth_camera.size == made.SIZE[::-1]
    assert recording.frame(1, color=False).depth_camera is not None
    return recording.notes


@pytest.mark.parametrize("kind", ["tum", "open3d", "7scenes"])
def test_the_principal_point_tells_whose_a_camera_is(kind, tmp_path):
    folder = enlarged(made.WRITERS[kind](tmp_path / "r", made.poses(3)))
    for path in folder.glob("intrinsic.json"):
        path.unlink()
    said = (
        "colour is 192×144 pixels, depth 96×72: one is taken as the other resized, intrinsics as those"
    )
    for K, size in ((made.K, "96×72"), (LARGE_K, "192×144")):
        made.matrix(folder / "camera-intrinsics.txt", K)
        assert f"{said} of {size}" in checked(folder)


def test_the_first_pictures_may_be_missing_or_damaged(tmp_path):
    folder = enlarged(made.tum(tmp_path / "r", made.poses(4)))
    first, _, third, _ = sorted((folder / "rgb").iterdir())
    first.write_bytes(b"no picture")
    third.unlink()
    assert any("one is taken as the other resized" in note for note in checked(folder))


def test_cameras_with_a_size_need_no_telling(tmp_path):
    folder = enlarged(made.tum(tmp_path / "r", made.poses(3)))
    for given in ("80 80 47.5 35.5 96 72", (*LARGE_K[[0, 1, 0, 1], [0, 1, 2, 2]], *LARGE)):
        assert not any("resized" in note for note in checked(folder, OpenOptions(given)))
    (folder / "camera-intrinsics.txt").unlink()
    (folder / "intrinsic.json").write_text(json.dumps(made.open3d_camera()))
    checked(folder)


def test_what_cannot_be_told_is_asked_for(tmp_path):
    folder = enlarged(made.tum(tmp_path / "r", made.poses(2)), (120, 90))
    made.matrix(folder / "camera-intrinsics.txt", np.array([[90.0, 0, 53], [0, 90, 40], [0, 0, 1]]))
    words = "the intrinsics 90 90 53 40 may be of either; give --intrinsics with the width and height"
    refused(folder, f"colour is 120×90 pixels, depth 96×72, and {words}.*'90 90 53 40 120 90'")
    assert len(open_recording(folder, OpenOptions("90 90 53 40 120 90"))) == 2
    refused(enlarged(folder), "may be of neither", intrinsics="900 900 499.5 349.5")
    refused(enlarged(folder, (192, 108)), "192×108 pixels, depth 96×72: one is not the other resized")


def test_six_numbers_are_a_camera_with_its_size(tmp_path):
    (tmp_path / "camera.txt").write_text("80 80 47.5 35.5 96 72")
    for given in ("80,80,47.5,35.5,96,72", tmp_path / "camera.txt", [80, 80, 47.5, 35.5, 96, 72]):
        found = given_intrinsics(given)
        assert np.array_equal(found.K, made.K) and found.size == made.SIZE
    with pytest.raises(InputError, match="width, height: found 0, 72"):
        given_intrinsics("80 80 47.5 35.5 0 72")
    with pytest.raises(InputError, match="expected fx fy cx cy, .* or fx fy cx cy with the width"):
        given_intrinsics("80 80 47.5 35.5 96")


@pytest.mark.parametrize("kind", [*made.WRITERS, *phones.WRITERS])
def test_a_given_size_is_heeded_in_every_layout(kind, tmp_path):
    """A camera of smaller pictures is resized to those that there are."""
    if kind.startswith(("replica", "colmap", "r3d")):
        return  # pictures of other sizes; depth that is rendered; a library to unpack it
    write = {**made.WRITERS, **phones.WRITERS}[kind]
    half = resize_intrinsics(made.K, made.SIZE, (48, 36))
    given = (*half[[0, 1, 0, 1], [0, 1, 2, 2]], 48, 36)
    frame = open_recording(write(tmp_path / "r", made.poses(2)), OpenOptions(given)).frame(0)
    for camera in (frame.color_camera, frame.depth_camera):
        assert camera is not None
        size = (camera.size[1], camera.size[0])
        assert np.allclose(camera.K, resize_intrinsics(half, (48, 36), size))


def test_sizes_in_files_of_posed_images_are_heeded(tmp_path):
    folder = made.scannet(tmp_path, made.poses(2))
    (folder / "intrinsic" / "intrinsic_color.txt").write_text("80 80 47.5 35.5 96 72")
    images = find_posed_images(folder)
    assert images.color_size == made.SIZE and images.depth_size is None
