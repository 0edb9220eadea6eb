"""Recordings of phone apps and of benchmarks of phones: written in the layouts that are documented."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import needs
import phone_recordings as phones
import recording_factory as made
from bifusion.datasets.recordings.check import check_recording
from bifusion.datasets.recordings.layouts.stray import read_columns
from bifusion.datasets.recordings.open import LAYOUTS, open_recording
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.video import Video
from bifusion.errors import InputError

WRITERS = {**made.WRITERS, **phones.WRITERS}
UPS = {
    "nerfstudio": "z", "nerfstudio of NeRFCapture": "?", "polycam": "y", "polycam uncorrected": "y",
    "stray": "y",
}  # fmt: skip


def refused(path: Path, words: str, **options) -> None:
    with pytest.raises(InputError, match=words):
        open_recording(path, OpenOptions(**options))


def edited(path: Path, change: Callable[[dict], object]) -> None:
    """JSON, changed in place."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("kind", WRITERS)
def test_each_recording_has_one_layout(kind, tmp_path):
    place = WRITERS[kind](tmp_path / "r", made.poses(2))
    assert [one.name for one in LAYOUTS if one.recognises(place)] == [kind.split()[0]]


@pytest.mark.parametrize("kind", phones.WRITERS)
def test_frames_are_the_rooms(kind, tmp_path):
    walk = made.poses(5)
    recording = open_recording(phones.WRITERS[kind](tmp_path / "r", walk))
    assert len(recording) == 5
    assert UPS[kind] == ("?" if recording.up is None else "xyz"[int(recording.up.argmax())])
    for index in (0, 4):
        frame = recording.frame(index)
        assert frame.depth_m is not None and frame.depth_camera is not None
        assert frame.color is not None and frame.color_camera is not None
        assert np.allclose(frame.depth_camera.cam2world, walk[index], atol=2e-6)
        assert np.allclose(frame.depth_camera.K, made.K) and frame.depth_camera.size == (72, 96)
        assert np.abs(frame.depth_m - made.depth_of(walk[index])).max() < 2e-3
        assert np.allclose(frame.color_camera.K, phones.COLOR_K)
        assert np.abs(frame.color[::2, ::2].astype(int) - made.color_of(index)).max() < 16
        alone = recording.frame(index, color=False)
        assert alone.color is None and alone.depth_m is not None
        assert np.array_equal(alone.depth_m, frame.depth_m)
    check = check_recording(recording)
    assert check.pairs == 5 and check.as_read_m < 0.02


@pytest.mark.parametrize("kind", [kind for kind in phones.WRITERS if "nerfstudio" not in kind])
def test_confidence_is_low_medium_high(kind, tmp_path):
    sure = open_recording(phones.WRITERS[kind](tmp_path / "r", made.poses(2))).frame(1).confidence
    assert sure is not None and sure.dtype == np.float32
    assert (sure[25, 25], sure[45, 45], sure[60, 60]) == (0, 0.5, 1)
    if kind == "polycam":
        assert sure[0].max() == 0 == sure[:, -2].max()  # the rim that undistortion leaves black


def test_a_given_camera_is_of_colour(tmp_path):
    for kind in ("nerfstudio", "polycam"):
        place = phones.WRITERS[kind](tmp_path / kind, made.poses(2))
        frame = open_recording(place, OpenOptions("150 150 95.5 71.5")).frame(0)
        assert frame.depth_camera is not None and frame.depth_camera.K[0, 0] == 75


def test_transforms_that_say_something_else(tmp_path):
    folder = phones.nerfstudio(tmp_path / "r", made.poses(3))
    path, whole = folder / "transforms.json", (folder / "transforms.json").read_text()
    for change, words in [
        (lambda t: t["frames"][0].update(file_path="../../x.jpg"), "which leaves"),
        (lambda t: t["frames"][0].update(depth_file_path="d.npy"), "names depth d.npy; expected"),
        (lambda t: t["frames"][1].update(transform_matrix=[[1]]), "frame 1: has no transform_matrix"),
        (lambda t: t.update(camera_model="OPENCV_FISHEYE"), "'OPENCV_FISHEYE', and pinhole cameras"),
        (lambda t: t.update(k1=0.3), "lens moves pixels by up to 2., which is not undone here"),
        (lambda t: t.update(fl_x=-1), "fl_x, fl_y: found -1"),
        (lambda t: t.update(w=None), "w, h: found"),
        (lambda t: t.update(frames=[]), "no frame with pictures and pose .*it lists none"),
        (lambda t: t.update(frames=3), "has no list 'frames'"),
        (lambda t: t.update(integer_depth_scale=0), "integer_depth_scale: found 0"),
        (lambda t: [f.pop("depth_file_path") for f in t["frames"]], "names no depth pictures"),
    ]:
        edited(path, change)
        refused(folder, words)
        path.write_text(whole)
    edited(path, lambda t: t.update(k1=0.01))
    assert any("lens moves pixels by up to 0.7" in note for note in open_recording(folder).notes)
    edited(path, lambda t: t["frames"][0].update(colmap_im_id=1, transform_matrix=[[np.inf] * 4] * 4))
    notes = "\n".join(open_recording(folder).notes)
    assert "COLMAP, whose unit is arbitrary" in notes and "1 of 3 frames with a pose that is" in notes
    colmaps = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]
    edited(path, lambda t: t.update(applied_transform=colmaps))
    assert open_recording(folder).up is None  # follows no gravity


def test_an_angle_of_view_is_a_focal_length(tmp_path):
    folder = phones.nerfstudio(tmp_path / "r", made.poses(2))

    def change(found):
        for one in (found, found["frames"][-1]):
            one.update(camera_angle_x=2 * np.arctan(96 / 160))
            del one["fl_x"], one["fl_y"], one["cx"]

    edited(folder / "transforms.json", change)
    frame = open_recording(folder).frame(1)
    assert frame.color_camera is not None and np.allclose(frame.color_camera.K, phones.COLOR_K)


def test_polycams_that_lack_something(tmp_path):
    folder = phones.polycam(tmp_path / "r", made.poses(4))
    cameras = sorted((folder / "keyframes" / "corrected_cameras").iterdir())
    (folder / "keyframes" / "depth" / f"{cameras[1].stem}.png").unlink()
    edited(cameras[2], lambda camera: camera.update(t_00=9))
    recording = open_recording(folder)
    assert [recording.frame(k).name for k in (0, 1)] == [cameras[0].stem, cameras[3].stem]
    assert recording.frame(1).time_s == pytest.approx(121 + 1, abs=1e-3)
    assert "not rigid" in recording.notes[0] and "(no depth)" in recording.notes[1]
    edited(cameras[0], lambda camera: camera.update(fx="a"))
    refused(folder, "fx, fy, cx, cy, width, height: found .*expected 6 numbers")
    made.picture(folder / "keyframes" / "depth" / "1.png", made.units(made.poses(1)[0], 1000))
    for path in (folder / "keyframes" / "depth").iterdir():
        path.unlink()
    refused(folder, "has no pictures in depth/.*LiDAR or Room mode")


def test_frames_of_a_video_in_any_order(tmp_path):
    path = tmp_path / "v.mp4"
    phones.video(path, [phones.large(k) for k in range(18)])
    film = Video(path)
    assert len(film) == 18 and film.size == phones.COLOR_SIZE
    for index in (0, 1, 7, 3, 17, 0, 16, 17):
        shown = film.read(index)[::2, ::2].astype(int)
        assert np.abs(shown - made.color_of(index)).max() < 9  # the next frame's red is 10 off
    with pytest.raises(InputError, match="v.mp4: cannot be read as a video"):
        Video(made_of(tmp_path / "cut" / "v.mp4", path.read_bytes()[:300]))
    data = bytearray(path.read_bytes())
    data[400:4000] = bytes(3600)
    broken = Video(made_of(tmp_path / "broken" / "v.mp4", bytes(data)))
    with pytest.raises(InputError, match="frame 1 cannot be decoded"):
        broken.read(1)


def made_of(path: Path, data: bytes) -> Path:
    path.parent.mkdir()
    path.write_bytes(data)
    return path


def test_strays_that_lack_something(tmp_path, monkeypatch):
    walk = made.poses(4)
    folder = phones.stray(tmp_path / "r", walk)
    phones.video(folder / "rgb.mp4", [phones.large(k) for k in range(3)])
    recording = open_recording(folder)
    assert recording.notes == ["1 of 4 frames whose pictures are missing left out: 000003 (no colour)"]
    assert recording.frame(2).time_s == pytest.approx(65575.5 + 2 / 60)
    path, whole = folder / "odometry.csv", (folder / "odometry.csv").read_text()
    for old, new, words in [
        (", qw", "", "odometry.csv: row 2 has 14 cells, the header 13"),
        ("qw", "q", "has no column qw, but timestamp, frame"),
        ("000001", "x", "expected numbers in frame"),
        (whole, whole.splitlines()[0], "holds no row below its header"),
    ]:
        path.write_text(whole.replace(old, new))
        refused(folder, words)
    path.write_text("\n".join(line.rsplit(",", 5)[0] for line in whole.splitlines()))
    frame = open_recording(folder).frame(0)  # an older version: one camera for all
    assert frame.color_camera is not None and frame.color_camera.K[0, 0] == 161
    monkeypatch.setitem(sys.modules, "av", None)
    refused(folder, r"need the package av: pip install 'bifusion\[phone\]'; or .* rgb/%06d.jpg")
    for k in range(4):
        made.picture(folder / "rgb" / f"{k:06d}.jpg", phones.large(k))
    (folder / "camera_matrix.csv").write_text("1610,0,959.5\n0,1610,719.5\n0,0,1\n")
    frame = open_recording(folder).frame(3)
    assert frame.color_camera is not None and np.allclose(frame.color_camera.K[0], [161, 0, 95.5])


@pytest.mark.real_data
def test_real_odometry():
    path = needs.folder("BIFUSION_REAL_DATA", "data") / "recordings/stray_excerpt"
    if not path.exists():
        needs.lacking("real_data", path)
    columns = read_columns(path / "odometry.csv")
    assert len(columns) == 15 and set(columns["distortion_center_x"]) == {""}
    refused(path, "rgb.mp4: missing; the recording needs it, or rgb/ with its frames")
