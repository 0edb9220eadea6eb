"""Cameras in the spellings that programs write, and those of pictures that were turned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import recording_factory as made
from bifusion.data.checks import check_intrinsics
from bifusion.datasets.recordings.intrinsics import given_intrinsics
from bifusion.datasets.recordings.open import open_recording
from bifusion.errors import InputError
from refused_recordings import refused

FLAT = {"fx": 80, "fy": 81, "cx": 47.5, "cy": 35.5}
SPELLINGS = {
    "K.txt": "80 0 47.5 0\n0 81 35.5 0\n0 0 1 0\n",
    "P.txt": "80 0 47.5 0 0 81 35.5 0 0 0 1 0",
    "numpy.txt": "[[80.  0.  47.5]\n [ 0.  81.  35.5]\n [ 0.   0.   1. ]]",
    "camera.json": json.dumps(FLAT),
    "sized.json": json.dumps({**FLAT, "width": 96, "height": 72}),
    "cam_params.json": json.dumps({"camera": {**FLAT, "w": 96, "h": 72, "scale": 6553.5}}),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_cameras_of_every_spelling(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(SPELLINGS[name])
    camera = given_intrinsics(tmp_path / name)
    assert np.array_equal(camera.K, [[80, 0, 47.5], [0, 81, 35.5], [0, 0, 1]])
    assert camera.size == ((96, 72) if name in ("sized.json", "cam_params.json") else None)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("P.txt", "80 0 47.5 -8\n0 81 35.5 0\n0 0 1 0\n", r"shape \(3, 4\)"),  # the right one of a pair
        ("camera.json", json.dumps({**FLAT, "cx": "a"}), "fx, fy, cx, cy: found"),
        ("camera.json", json.dumps({"fx": 80, "fy": 81, "cx": 47.5}), "has no intrinsic_matrix"),
        ("camera.json", json.dumps({**FLAT, "w": 0, "h": 72}), "w, h: found 0, 72; expected pixels"),
    ],
)
def test_cameras_that_are_none(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        given_intrinsics(tmp_path / name)


@pytest.mark.parametrize("size", [(480, 640), (512, 640), (1440, 1920)])
def test_intrinsics_of_a_picture_turned_by_a_quarter_are_told(size: tuple[int, int]) -> None:
    """Of 4:3 the principal point is no farther from the centre than lenses may have it."""
    height, width = size
    landscape, portrait = (width, height), (height, width)
    K = np.array([[500.0, 0, width / 2 - 3], [0, 500, height / 2 + 4], [0, 0, 1]])
    check_intrinsics(K, landscape, "")
    with pytest.raises(InputError, match=f"the picture turned by a quarter, {width}×{height}"):
        check_intrinsics(K, portrait, "")


def test_pictures_that_were_turned_alone_are_refused(tmp_path: Path) -> None:
    folder = made.scannet(tmp_path, made.poses(2))
    for path in (folder / "color").iterdir():
        Image.open(path).rotate(90, expand=True).save(path)
    with pytest.raises(InputError, match="color/0.jpg: the intrinsics are those of the picture turned"):
        open_recording(folder).frame(0)


def test_a_replica_of_another_camera_says_so_beside_its_poses(tmp_path: Path) -> None:
    walk = made.poses(3)
    folder = made.replica(tmp_path / "r", walk)
    K = np.array([[90.0, 0, 59.5], [0, 90, 33.5], [0, 0, 1]])
    for k, pose in enumerate(walk):
        small = np.rint(made.depth_of(pose, K, (120, 68)) * 1000).astype(np.uint16)
        made.picture(folder / "results" / f"depth{k:06d}.png", small)
    camera = {"w": 120, "h": 68, "fx": 90, "fy": 90, "cx": 59.5, "cy": 33.5, "scale": 1000}
    (folder / "cam_params.json").write_text(json.dumps({"camera": camera}))
    frame = open_recording(folder).frame(1)
    assert frame.depth_camera is not None and np.array_equal(frame.depth_camera.K, K)
    assert frame.depth_m is not None
    assert np.abs(frame.depth_m - made.depth_of(walk[1], K, (120, 68))).max() < 1e-3
    (folder / "cam_params.json").write_text(json.dumps({"camera": {**camera, "scale": 0}}))
    refused(folder, "scale: found 0; expected units of depth a metre")


def test_an_open3d_trajectory_may_state_a_camera_for_each_frame(tmp_path: Path) -> None:
    folder = made.open3d_json(tmp_path / "r", made.poses(3))
    path = folder / "camera_trajectory.json"
    found = json.loads(path.read_text())
    for k, frame in enumerate(found["parameters"]):  # a phone's, which follow the focus
        frame["intrinsic"]["intrinsic_matrix"][0] = 80 + k
    path.write_text(json.dumps(found))
    recording = open_recording(folder)
    cameras = [recording.frame(k).depth_camera for k in range(3)]
    assert [camera and camera.K[0, 0] for camera in cameras] == [80, 81, 82]
