"""Recordings of phone apps, written in the layouts that are documented, and what all layouts share."""

import os
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import needs
import phone_recordings as phones
import recording_factory as made
from bifusion.data.images import resize_intrinsics
from bifusion.datasets.recordings.check import check_recording
from bifusion.datasets.recordings.layouts import r3d
from bifusion.datasets.recordings.layouts.stray import read_columns
from bifusion.datasets.recordings.lens import check_lens
from bifusion.datasets.recordings.lzfse import unpack
from bifusion.datasets.recordings.open import LAYOUTS, open_recording
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.video import Video
from bifusion.datasets.scan.make import make_scan, scan_name
from bifusion.datasets.scan.options import ScanOptions
from bifusion.errors import InputError
from refused_recordings import edited, refused

WRITERS = {**made.WRITERS, **phones.WRITERS}
UPS = {
    "nerfstudio": "z", "nerfstudio of NeRFCapture": "?", "polycam": "y", "polycam uncorrected": "y",
    "stray": "y", "r3d": "y", "r3d unpacked": "y", "scannerapp": "y", "scannerapp in exr": "y",
    "arkitscenes": "z", "scannetpp": "z", "scannetpp in one stream": "z",
    "colmap": "?", "colmap in text": "?",
}  # fmt: skip

SURE = [kind for kind in phones.WRITERS if kind.split()[0] not in ("nerfstudio", "scannetpp", "colmap")]


@pytest.mark.parametrize("model", ["PINHOLE", "pinhole", "Simple_Radial"])
def test_camera_models_are_read_in_any_case(model, tmp_path):
    place = phones.nerfstudio(tmp_path / "r", made.poses(2))
    edited(place / "transforms.json", lambda found: found.update(camera_model=model))
    assert len(open_recording(place)) == 2


CHANGES = int(os.environ.get("BIFUSION_CHANGES", "10"))
"""Changed files of each layout."""
DEPTHS = {
    "scannetpp": (phones.PHONE_K, phones.PHONE_SIZE),
    "colmap": (phones.COLOR_K, phones.COLOR_SIZE),
}
"""Camera and size of depth that is not the rooms' own."""


@pytest.mark.parametrize("kind", WRITERS)
def test_each_recording_has_one_layout(kind, tmp_path):
    place = WRITERS[kind](tmp_path / "r", made.poses(2))
    assert [one.name for one in LAYOUTS if one.recognises(place)] == [kind.split()[0]]


@pytest.mark.parametrize("kind", phones.WRITERS)
def test_frames_are_the_rooms(kind, tmp_path):
    walk, layout = made.poses(5), kind.split()[0]
    recording = open_recording(phones.WRITERS[kind](tmp_path / "r", walk))
    assert len(recording) == 5
    assert UPS[kind] == ("?" if recording.up is None else "xyz"[int(recording.up.argmax())])
    for index in (0, 4):
        frame = recording.frame(index)
        assert frame.depth_m is not None and frame.depth_camera is not None
        assert frame.color is not None and frame.color_camera is not None
        assert np.allclose(frame.depth_camera.cam2world, walk[index], atol=2e-6)
        K, size = DEPTHS.get(layout, (made.K, made.SIZE))
        assert np.allclose(frame.depth_camera.K, K) and frame.depth_camera.size == size[::-1]
        assert np.abs(frame.depth_m - made.depth_of(walk[index], K, size)).max() < 2e-3
        color_K = phones.COLOR_K if layout != "scannetpp" else resize_intrinsics(K, size, (512, 384))
        assert np.allclose(frame.color_camera.K, color_K)
        if layout != "scannetpp":
            assert np.abs(frame.color[::2, ::2].astype(int) - made.color_of(index)).max() < 16
        alone = recording.frame(index, color=False)
        assert alone.color is None and alone.depth_m is not None
        assert np.array_equal(alone.depth_m, frame.depth_m)
    check = check_recording(recording)
    assert check.pairs == 5 and check.as_read_m < 0.02


@pytest.mark.parametrize("kind", ["open3d", "polycam", "stray", "arkitscenes", "colmap"])
def test_what_a_mac_leaves_in_archives_is_passed_over(kind, tmp_path):
    WRITERS[kind](tmp_path / "r", made.poses(2))
    (tmp_path / "__MACOSX").mkdir()
    for path in [path for path in (tmp_path / "r").rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100))
    recording = open_recording(tmp_path)
    assert len(recording) == 2 and recording.name == "r"
    frame = recording.frame(1)
    assert frame.color is not None and frame.depth_m is not None


@pytest.mark.parametrize("kind", SURE)
def test_confidence_is_low_medium_high(kind, tmp_path):
    sure = open_recording(phones.WRITERS[kind](tmp_path / "r", made.poses(2))).frame(1).confidence
    assert sure is not None and sure.dtype == np.float32
    assert (sure[25, 25], sure[45, 45], sure[60, 60]) == (0, 0.5, 1)
    if kind == "polycam":
        assert sure[0].max() == -1 == sure[:, -2].max()  # the rim that undistortion leaves black


@pytest.mark.parametrize("kind", phones.WRITERS)
def test_changed_files_are_read_or_refused(kind, tmp_path):
    """Cut, or with other bytes: InputError or frames, nothing else."""
    place = phones.WRITERS[kind](tmp_path / "r", made.poses(2))
    files = sorted(
        path for path in (place if place.is_dir() else place.parent).rglob("*") if path.is_file()
    )
    rng, refusals = np.random.default_rng(0), 0
    for turn in range(CHANGES):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        file.write_bytes(changed(whole, rng, turn))
        try:
            recording = open_recording(place)
            for index in range(len(recording)):
                depth_m = recording.frame(index).depth_m
                assert depth_m is None or np.isfinite(depth_m).all()
                assert np.isfinite(recording.cam2world(index)).all()
        except InputError as error:
            refusals += 1
            assert len(str(error)) < 2000
        file.write_bytes(whole)
    assert refusals > 0 and len(open_recording(place)) == 2


def changed(data: bytes, rng: np.random.Generator, turn: int) -> bytes:
    if turn % 2 == 0:
        return data[: rng.integers(len(data))]
    other = bytearray(data)
    for _ in range(turn):
        other[rng.integers(len(data))] = rng.integers(256)
    return bytes(other)


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
        (lambda t: t["frames"][0].update(depth_file_path="d.npz"), "names depth d.npz; expected"),
        (lambda t: t["frames"][1].update(transform_matrix=[[1]]), "frame 1: has no transform_matrix"),
        (lambda t: t.update(camera_model="OPENCV_FISHEYE"), "'OPENCV_FISHEYE', and pinhole cameras"),
        (lambda t: t.update(camera_model="fisheye"), "'fisheye', and pinhole cameras"),
        (lambda t: t.update(k1=0.3), "lens moves pixels by up to 2., which is not undone here"),
        (lambda t: t.update(k4=3), "lens moves pixels by up to 36, which is not undone here"),
        (lambda t: t.pop("camera_model") and t.update(is_fisheye=True), "says is_fisheye, and pinhole"),
        (lambda t: t.update(fl_x=-1), "fl_x, fl_y: found -1"),
        (lambda t: t.update(w=None), "w, h: found"),
        (lambda t: t.update(frames=[]), "no frame with pictures and pose .*it lists none"),
        (lambda t: t.update(frames=3), "has no list 'frames'"),
        (lambda t: t.update(applied_scale=0), "applied_scale: found 0; expected a positive number"),
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


def test_a_lens_is_looked_at_everywhere():
    """At the corners, where r² is 0.64, the two terms cancel to half a pixel."""
    K, size = np.array([[500, 0, 319.5], [0, 500, 239.5], [0, 0, 1.0]]), (640, 480)
    for k1, k2, moved in ((0.3, -0.47, 14), (-0.2, 0.31, 10)):
        with pytest.raises(InputError, match=f"moves pixels by up to {moved}, which is not undone"):
            check_lens(K, size, (k1, k2, 0, 0), "x")
    note = "the lens moves pixels by up to 4.7, which is not undone"
    assert check_lens(K, size, (0.1, -0.157, 0, 0), "x") == note
    assert check_lens(K, size, (0.01, -0.0157, 0, 0), "x") is None


def test_scaled_poses_and_names_without_ending(tmp_path):
    """Of poses multiplied by 0.3; depth is as it was."""
    folder = phones.nerfstudio(tmp_path / "r", walk := made.poses(3))

    def change(found):
        found["applied_scale"] = 0.3
        for frame in found["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, 3] *= 0.3
            frame["transform_matrix"] = pose.tolist()
            for key in ("file_path", "depth_file_path"):
                frame[key] = frame[key].rsplit(".", 1)[0]

    edited(folder / "transforms.json", change)
    recording = open_recording(folder)
    assert np.allclose([recording.cam2world(k) for k in range(3)], walk)
    assert "poses were scaled by 0.3 (applied_scale), which was taken back" in recording.notes


def test_an_angle_of_view_is_a_focal_length(tmp_path):
    folder = phones.nerfstudio(tmp_path / "r", made.poses(2))

    def change(found):
        for one in (found, found["frames"][-1]):
            one.update(camera_angle_x=2 * np.arctan(96 / 160))
            del one["fl_x"], one["fl_y"], one["cx"]

    edited(folder / "transforms.json", change)
    frame = open_recording(folder).frame(1)
    assert frame.color_camera is not None and np.allclose(frame.color_camera.K, phones.COLOR_K)
    edited(
        folder / "transforms.json",
        lambda found: found["frames"][-1].update(camera_angle_y=2 * np.arctan(72 / 150)),
    )
    frame = open_recording(folder).frame(1)  # pixels that are no squares
    assert frame.color_camera is not None and np.allclose(np.diag(frame.color_camera.K), (160, 150, 1))


def test_polycams_that_lack_something(tmp_path):
    folder = phones.polycam(tmp_path / "r", made.poses(4))
    cameras = sorted((folder / "keyframes" / "corrected_cameras").iterdir())
    (folder / "keyframes" / "depth" / f"{cameras[1].stem}.png").unlink()
    edited(cameras[2], lambda camera: camera.update(t_00=9))
    recording = open_recording(folder)
    assert [recording.frame(k).name for k in (0, 1)] == [cameras[0].stem, cameras[3].stem]
    assert recording.frame(1).time_s == pytest.approx(121 + 1, abs=1e-3)
    assert "not rigid" in recording.notes[0] and "(no depth)" in recording.notes[1]
    phones.polycam_raw(folder, made.poses(6))
    assert open_recording(folder).notes[0].startswith("4 of 6 pictures have a corrected camera")
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


@pytest.mark.parametrize("whole", [False, True])
def test_a_stray_whose_beginning_was_cut_off(whole, tmp_path):
    """Rows and depth of frames 5 to 9, and a video of these, or of all."""
    folder = phones.stray(tmp_path / "r", made.poses(5))
    table = folder / "odometry.csv"
    for k in reversed(range(5)):
        table.write_text(table.read_text().replace(f", {k:06d},", f", {k + 5:06d},"))
        for name in ("depth", "confidence"):
            (folder / name / f"{k:06d}.png").rename(folder / name / f"{k + 5:06d}.png")
    if whole:
        phones.video(folder / "rgb.mp4", [phones.large(k) for k in (*[9] * 5, *range(5))])
    recording = open_recording(folder)
    assert len(recording) == 5
    for index in (0, 4):
        color = recording.frame(index).color
        assert color is not None and np.abs(color - phones.large(index).astype(int)).mean() < 4


def test_strays_that_lack_something(tmp_path, monkeypatch):
    walk = made.poses(4)
    folder = phones.stray(tmp_path / "r", walk)
    phones.video(folder / "rgb.mp4", [phones.large(k) for k in range(3)])
    recording = open_recording(folder)
    assert [recording.has_picture(k) for k in range(4)] == [True, True, True, False]
    assert "1 of 4 frames have no picture" in recording.notes[0] and recording.notes[0][-6:] == "000003"
    assert recording.frame(2).time_s == pytest.approx(65575.5 + 2 / 60)
    path, whole = folder / "odometry.csv", (folder / "odometry.csv").read_text()
    for old, new, words in [
        (", qw", "", "odometry.csv: row 2 has 14 cells, the header 13"),
        ("qw", "q", "has no column qw, but timestamp, frame"),
        ("000001", "x", "expected numbers in frame"),
        ("000001", "0" * 140_000, "cannot be read as a table .field larger than"),
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


def test_depth_that_record3d_packed(tmp_path):
    lzfse = needs.module("lzfse", "liblzfse")
    walk = made.poses(3)
    for kind, pack in (("lzfse", lzfse.compress), ("bare", bytes)):
        place = phones.r3d(tmp_path / kind, walk, pack, stated=False)
        frame = open_recording(place).frame(1)
        assert frame.depth_m is not None and frame.confidence is not None
        assert np.array_equal(frame.depth_m, made.depth_of(walk[1]).astype(np.float32))
        assert np.array_equal(frame.confidence, phones.level(2) / 2)
    data = lzfse.compress(made.depth_of(walk[0]).astype("<f4").tobytes())
    assert len(unpack(data, 27648, "x")) == 27648
    for changed, words in [
        (data[:600], "is no LZFSE stream .*cut short"),
        (data[:-4], "is no LZFSE stream"),
        (b"bvx2" + struct.pack("<I", 1 << 31) + data[8:], "unpacks to .*expected 27,648"),
        (b"bvxn" + struct.pack("<II", 27648, 3) + b"abc" + b"bvx$", "is a damaged LZFSE stream"),
        (b"bvx-\x00\x00\x00\x00" * 1000, "it has no end"),
        (b"other", "a block begins with b'othe'"),
    ]:
        with pytest.raises(InputError, match=words):
            unpack(changed, 27648, "x")


def test_packed_depth_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "liblzfse", None)
    packed = b"bvxn" + struct.pack("<II", 27648, 3) + b"abc" + b"bvx$"
    recording = open_recording(phones.r3d(tmp_path, made.poses(2), lambda data: packed))
    with pytest.raises(InputError, match="rgbd/0.depth: is compressed by LZFSE: pip install pyliblzfse"):
        recording.frame(0)


def test_archives_that_lie(tmp_path, monkeypatch):
    monkeypatch.setattr(r3d, "MOST_PICTURE_BYTES", 1 << 20)
    place = phones.r3d(tmp_path / "r", made.poses(2))
    with zipfile.ZipFile(place, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("rgbd/1.depth", bytes(1 << 22), zipfile.ZIP_DEFLATED)
        archive.writestr("../../escaped.txt", "x")
    recording = open_recording(place)
    with pytest.raises(InputError, match="rgbd/1.depth: has more than 1,048,576 bytes"):
        recording.frame(1)
    assert not (tmp_path / "escaped.txt").exists() and scan_name(place) == recording.name == "room"
    place.write_bytes(place.read_bytes()[:3000])
    refused(place, "room.r3d: is no readable ZIP archive")
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("a", "x")
    refused(place, "room.r3d: metadata: missing")
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("metadata", b"\xff\xfe")
    refused(place, "room.r3d: metadata: is no text")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_packed_unusually(tmp_path, method):
    place = phones.r3d(tmp_path / "r", made.poses(2))
    with zipfile.ZipFile(place, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("rgbd/0.depth", b"x", method)
    with pytest.raises(InputError, match="rgbd/0.depth: is not packed as ZIP archives usually are"):
        open_recording(place).frame(0)


@pytest.mark.parametrize("kind", ["colmap", "polycam"])
def test_a_scan_of_it(kind, tmp_path):
    """Of a recording with a mesh of its own, the mesh's vertices are the scan's."""
    walk = made.poses()
    place = phones.WRITERS[kind](tmp_path / "r", walk)
    made_of_it = make_scan(place, ScanOptions(up="z", views=3))
    assert made_of_it.kind == "recording" and len(made_of_it.scene.view_names) == 3
    if kind == "colmap":
        box = phones.room_box()
        assert np.allclose(made_of_it.mesh.coord, box.coord)
        assert np.array_equal(made_of_it.mesh.faces, box.faces)
    view = made_of_it.scene.views[made_of_it.scene.view_names[0]]
    assert (view.depth_m > 0).mean() > 0.8
    inside = made_of_it.mesh.coord[:, 2]
    assert -0.1 < inside.min() < inside.max() < 2.6
