"""Recordings in the layouts of benchmarks of phones and of COLMAP, and what each refuses."""

import struct
from dataclasses import replace

import numpy as np
import pytest

import phone_recordings as phones
import recording_factory as made
from bifusion.datasets.recordings.depth_bin import DepthBin
from bifusion.datasets.recordings.lz4_block import unpack_lz4
from bifusion.datasets.recordings.open import open_recording
from bifusion.errors import InputError
from refused_recordings import edited, refused
from room_meshes import write_ply


def test_arkitscenes_that_lack_something(tmp_path):
    folder = phones.arkitscenes(tmp_path / "r", made.poses(4))
    recording = open_recording(folder)
    assert recording.notes[0] == "4 of 8 depth maps were taken between poses and are left out"
    assert recording.frame(1).time_s == pytest.approx(6790.2)
    path, whole = folder / "lowres_wide.traj", (folder / "lowres_wide.traj").read_text()
    rows = whole.splitlines()
    path.write_text("\n".join([" ".join([*rows[0].split()[:6], "-inf"]), *rows[1:]]))
    assert len(open_recording(folder)) == 3
    for text, words in [
        ("", "expected lines of time, axis-angle and translation"),
        ("1 2 3\n", "expected lines of time, axis-angle and translation"),
        (whole.replace(rows[0].split()[0], "nan", 1).splitlines()[0], "has no finite time"),
        (whole.replace(rows[1].split()[2], "x", 1), "is no matrix of numbers"),
    ]:
        path.write_text(text)
        refused(folder, words)
    path.write_text(whole)
    lens = min((folder / "lowres_wide_intrinsics").iterdir())
    lens.write_text("192 144 160 160 95.5\n")
    refused(folder, "pincam: expected width, height, fx, fy, cx, cy")
    lens.write_text("0.4 144 160 160 95.5 71.5\n")
    refused(folder, "pincam: width, height: found 0.4, 144; expected pixels, 1 to 100,000")
    lens.unlink()
    (folder / "wide").mkdir()  # without its cameras
    refused(folder, "lowres_wide_intrinsics: has no camera of 6790.100 s")
    made.picture(folder / "wide" / "41_6790.101.png", np.zeros((288, 384, 3), np.uint8))
    (folder / "wide_intrinsics").mkdir()
    for time in ("6790.100", "6790.200", "6790.300", "6790.400"):
        (folder / "wide_intrinsics" / f"41_{time}.pincam").write_text("384 288 320 320 191.5 143.5")
    frame = open_recording(folder).frame(0)  # the larger pictures, where they were downloaded
    assert frame.color is not None and frame.color.shape == (288, 384, 3)
    assert frame.depth_camera is not None and np.allclose(frame.depth_camera.K, made.K)


def test_scannetpps_that_lack_something(tmp_path):
    folder = phones.scannetpp(tmp_path / "r", made.poses(4))
    phone = folder / "iphone"
    whole = (phone / "depth.bin").read_bytes()
    (phone / "depth.bin").write_bytes(whole[:-9])
    assert "(no depth)" in open_recording(folder).notes[0]
    (phone / "depth.bin").write_bytes(whole[:4] + b"\x1f" + whole[5:])
    recording = open_recording(folder)
    with pytest.raises(InputError, match="depth.bin: frame 0: cannot be unpacked"):
        recording.frame(0)
    assert recording.frame(1).depth_m is not None
    posed = phone / "pose_intrinsic_imu.json"
    text = posed.read_text()
    edited(posed, lambda poses: poses["frame_000002"].update(aligned_pose=[[-np.inf] * 4] * 4))
    assert "not finite (tracking lost)" in open_recording(folder).notes[0]
    edited(posed, lambda poses: poses.update(frame_000002={"pose": 1}, frame_000003=None))
    assert "2 of 4 frames without aligned_pose left out" in open_recording(folder).notes
    edited(posed, lambda poses: poses.update(frame_000003={}, frame_000002={"aligned_pose": []}))
    refused(folder, "frame_000002: has no aligned_pose of 4 rows")
    posed.write_text("{}")
    refused(folder, "has no keys frame_000000")
    posed.write_text(text)
    for k, pose in enumerate(made.poses(4)):  # what the official script writes
        made.picture(phone / "rgb" / f"frame_{k:06d}.jpg", phones.large(k))
        millimetres = np.rint(phones.phone_depth(pose) * 1000).astype(np.uint16)
        made.picture(phone / "depth" / f"frame_{k:06d}.png", millimetres)
    edited(posed, lambda poses: [p.update(intrinsic=phone_camera()) for p in poses.values()])
    frame = open_recording(phone).frame(0)
    assert frame.depth_camera is not None and np.allclose(frame.depth_camera.K, phones.PHONE_K)
    (phone / "rgb.mkv").unlink()
    for path in (phone / "rgb").iterdir():
        path.unlink()
    refused(folder, "rgb.mkv: missing; the recording needs it, or rgb/")


def phone_camera() -> list:
    """ScanNet++'s for 1920×1440, of which depth is 7.5 times smaller."""
    return [[213 * 7.5, 0, 128 * 7.5 - 0.5], [0, 213 * 7.5, 96 * 7.5 - 0.5], [0, 0, 1]]


def test_depth_of_one_stream_in_any_order(tmp_path):
    walk = made.poses(4)
    path = phones.scannetpp_stream(tmp_path, walk) / "iphone" / "depth.bin"
    packed = DepthBin(path)
    for index in (0, 2, 1, 3, 3):
        assert np.allclose(packed.read_m(index), phones.phone_depth(walk[index]), atol=1e-6)
    with pytest.raises(InputError, match="frame 4: cannot be unpacked .the stream ends before it"):
        packed.read_m(4)
    assert packed.read_m(0).shape == (192, 256)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="frame 0: cannot be unpacked"):
        DepthBin(path).read_m(0)


def test_lz4_blocks():
    """By the description of the format: literals, overlapping copies, lengths of several bytes."""
    assert unpack_lz4(b"\x30abc", 3) == b"abc"
    assert unpack_lz4(b"\x1fa\x01\x00\x05\x10b", 26) == b"a" * 25 + b"b"
    assert unpack_lz4(b"\x20ab\x02\x00\x10c", 7) == b"ababab"[:6] + b"c"
    assert unpack_lz4(phones.lz4_literals(bytes(700)), 700) == bytes(700)
    for data, size in [
        (b"\x30ab", 3),
        (b"\x30abc", 4),
        (b"\x20ab\x03\x00\x10c", 7),
        (b"", 1),
        (b"\xf0", 9),
    ]:
        with pytest.raises(ValueError, match="it "):
            unpack_lz4(data, size)


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("r3d unpacked", ["metadata"]),
        ("colmap in text", ["sparse/0/cameras.txt", "sparse/0/images.txt"]),
        ("polycam", ["keyframes/corrected_cameras/121000000.json"]),
    ],
)
def test_texts_from_windows_and_lost_poses(kind, texts, tmp_path):
    """A byte order mark before each text; where JSON has the poses, the first is no number."""
    place = phones.WRITERS[kind](tmp_path / "r", made.poses(3))
    lost = 0 if kind == "colmap in text" else 1
    for path in (place / text for text in texts):
        if kind == "polycam":
            edited(path, lambda found: found.update(t_03=float("nan")))
        elif kind == "r3d unpacked":
            edited(path, lambda found: found["poses"].__setitem__(0, None))
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    recording = open_recording(place)
    assert len(recording) == 3 - lost
    assert lost == sum("1 of 3 frames with a pose that is not finite" in one for one in recording.notes)


def test_colmaps_that_lack_something(tmp_path):
    folder = phones.colmap_text(tmp_path / "r", made.poses(4))
    recording = open_recording(folder)
    assert recording.mesh is not None and len(recording.mesh.coord) == 6146
    assert (
        "depth is rendered from mesh.ply: how frames agree says nothing of the poses" in recording.notes
    )
    (folder / "points3D.ply").write_bytes(b"ply")  # the sparse points are no surface
    assert len(open_recording(folder)) == 4
    model = folder / "sparse" / "0"
    cameras, images = (model / f"{name}.txt" for name in ("cameras", "images"))
    texts = {path: path.read_text() for path in (cameras, images)}
    for path, old, new, words in [
        (cameras, "SIMPLE_RADIAL", "FOV", "camera 7: its lens is FOV, which is not undone"),
        (cameras, "0.001", "0.4", "its lens moves pixels by up to"),
        (cameras, "PINHOLE 192 144 160.0", "PINHOLE 192 144", "PINHOLE has 3 numbers; expected 4"),
        (cameras, "PINHOLE 192 144 160.0", "PINHOLE 192 144 5e173", "focal lengths are 5e.173 and 160"),
        (cameras, "PINHOLE 192 144", "PINHOLE 192 32768", "expected 327.68 to"),
        (cameras, "PINHOLE 192 144", "PINHOLE 192 0", "found 192, 0; expected pixels"),
        (cameras, "7 SIMPLE", "8 SIMPLE", "left/0001.jpg has camera 7, which cameras.txt has not"),
        (images, "left/0001", "../../0001", "which leaves"),
        (images, "1 ", "x ", "is damaged or no COLMAP model"),
    ]:
        path.write_text(texts[path].replace(old, new))
        refused(folder, words)
        path.write_text(texts[path])
    images.write_text(texts[images].replace("left/0001", "left/0009"))
    assert "1 of 4 frames whose pictures are missing" in "\n".join(open_recording(folder).notes)
    images.write_text(texts[images])
    mesh = (folder / "mesh.ply").read_bytes()
    far = phones.room_box()
    far.coord = far.coord + (500, 0, 0)
    write_ply(folder / "mesh.ply", far)
    refused(folder, "cameras see it in 0% of their pixels: it is in another frame or unit")
    far.coord[17, 1] = 1e300  # Embree would look for its hits for ever
    write_ply(folder / "mesh.ply", far)
    refused(folder, r"1 of 6146 points have a coordinate beyond 1e.12, as no scan has it")
    far.coord[17, 1] = 0
    write_ply(folder / "mesh.ply", replace(far, faces=far.faces[:0]))
    refused(folder, "is a cloud, of which no depth can be rendered")
    (folder / "other.ply").write_bytes(mesh)
    refused(folder, "which mesh belongs to COLMAP's poses. Found mesh.ply, other.ply")
    for name in ("mesh.ply", "other.ply"):
        (folder / name).unlink()
    refused(folder, "whose unit is arbitrary, and no depth; put a mesh")


def test_a_colmap_model_that_is_cut(tmp_path):
    folder = phones.colmap(tmp_path / "r", made.poses(2))
    for name in ("cameras.bin", "images.bin"):
        path = folder / "sparse" / "0" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-30])
        refused(folder, f"{name}: is damaged or no COLMAP model")
        path.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
        refused(folder, f"{name}: is damaged or no COLMAP model")
        path.write_bytes(whole)
