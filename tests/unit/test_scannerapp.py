"""3D Scanner App's "All data": which frames are taken, and what is refused."""

import numpy as np
import pytest

import phone_recordings as phones
import recording_factory as made
from bifusion.datasets.recordings.open import open_recording
from refused_recordings import edited, refused


def test_pictures_that_3d_scanner_app_keeps(tmp_path):
    """Of every third frame; depth of all, but for those of fast motion."""
    folder = phones.scannerapp(tmp_path / "r", made.poses(7), every=3)
    edited(folder / "frame_00003.json", lambda frame: frame.update(motionQuality=0.79))
    recording = open_recording(tmp_path)
    names = [recording.frame(k).name for k in range(len(recording))]
    assert names == ["0", "1", "2", "4", "5", "6"]
    assert [recording.has_picture(k) for k in range(6)] == [True, False, False, False, False, True]
    assert recording.frame(5).time_s == pytest.approx(402896.5 + 0.6)
    assert recording.notes == [
        "1 of 7 frames were taken in fast motion and are left out",
        "4 of 6 frames have no picture: their depth is used, colours and views are the others': 1, 2, "
        "4 and 1 more",
    ]
    edited(folder / "frame_00006.json", lambda frame: frame.update(cameraPoseARFrame=[9] * 16))
    assert "not rigid" in open_recording(folder).notes[1]


def test_3d_scanner_apps_that_lack_something(tmp_path):
    folder = phones.scannerapp(tmp_path / "r", made.poses(2))
    first = folder / "frame_00000.json"
    whole = first.read_text()
    for change, words in [
        (lambda frame: frame.pop("cameraPoseARFrame"), "cameraPoseARFrame: found None; expected 16"),
        (lambda frame: frame["intrinsics"].__setitem__(0, 0), "intrinsics: .*expected focal lengths"),
        (lambda frame: frame["projectionMatrix"].__setitem__(0, -1), "projectionMatrix: found -1"),
        (lambda frame: frame["projectionMatrix"].__setitem__(5, 1e9), "by projectionMatrix: found"),
    ]:
        edited(first, change)
        refused(folder, words)
        first.write_text(whole)
    for path in folder.glob("frame_*.json"):  # as older versions write it: for ARKit's 1920 × 1440
        edited(path, lambda frame: frame.pop("projectionMatrix"))
        edited(path, lambda frame: frame.update(intrinsics=[1600, 0, 959.5, 0, 1600, 719.5, 0, 0, 1]))
    frame = open_recording(folder).frame(0)
    assert frame.depth_camera is not None and np.allclose(frame.depth_camera.K, made.K)
    first.write_text("[]")
    refused(folder, "frame_00000.json: holds no object; expected one of 3D Scanner App's frames")
    for path in folder.glob("frame_*.jpg"):
        path.unlink()
    refused(folder, "none of its 2 frames has a picture frame_00000.jpg; export 'All data' again")
