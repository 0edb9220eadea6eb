"""Recordings in every layout that is read, written as documented and as strangers really have them."""

import json
import shutil
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import recording_factory as made
from bifusion.data.images import resize_intrinsics
from bifusion.datasets.recordings.frame import Recording
from bifusion.datasets.recordings.open import LAYOUTS, open_recording
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.pairs import nearest
from bifusion.datasets.recordings.text_files import inside, read_matrix
from bifusion.errors import InputError
from refused_recordings import refused


@pytest.mark.parametrize("kind", made.WRITERS)
def test_every_layout_gives_the_same_frames(kind, tmp_path):
    walk = made.poses()
    recording = open_recording(made.WRITERS[kind](tmp_path / "r", walk))
    assert isinstance(recording, Recording) and recording.layout == kind.split()[0]
    numbers = [0, 2, 3, 4, 5, 6, 7] if kind == "record3d" else list(range(8))
    assert len(recording) == len(numbers)
    for index in (0, 1, len(numbers) - 1):
        pose, frame = walk[numbers[index]], recording.frame(index)
        assert np.allclose(recording.cam2world(index), pose, atol=2e-6)
        assert frame.color is not None and frame.depth_m is not None and frame.depth_camera is not None
        assert frame.color.dtype == np.uint8 and frame.depth_m.dtype == np.float32
        assert np.allclose(frame.depth_camera.cam2world, pose, atol=2e-6)
        height, width = frame.depth_camera.size
        assert frame.depth_m.shape == (height, width)
        true = made.depth_of(pose, frame.depth_camera.K, (width, height))
        measured = frame.depth_m > 0
        assert measured.mean() > 0.99
        assert np.abs(frame.depth_m - true)[measured].max() < 2e-3
        alone = recording.frame(index, color=False)
        assert alone.color is None and np.array_equal(alone.depth_m, frame.depth_m)
        if kind != "replica":
            step = 2 if kind == "record3d" else 1
            color = frame.color[::step, ::step].astype(int)
            assert np.abs(color - made.color_of(numbers[index])).max() < 16
        assert frame.color_camera is not None and frame.color_camera.size == frame.color.shape[:2]


def test_what_layouts_know_of_up_and_time(tmp_path):
    ups = {
        kind: open_recording(write(tmp_path / kind, made.poses(3))).up
        for kind, write in made.WRITERS.items()
    }
    axes = {kind: "?" if up is None else "xyz"[int(up.argmax())] for kind, up in ups.items()}
    assert axes == {
        "scannet": "z", "sens": "z", "7scenes": "?", "7scenes of 3RScan": "?", "tum": "?", "open3d": "?",
        "open3d json": "?", "open3d of Redwood": "?", "replica": "z", "hololens": "y", "record3d": "y",
    }  # fmt: skip
    old = made.record3d(tmp_path / "old", np.stack([np.diag([1.0, -1, -1, 1])] * 3))
    assert open_recording(old).up is None  # begins at the identity: gravity was not kept
    assert open_recording(tmp_path / "tum").frame(1).time_s == pytest.approx(100 + 1 / 30, abs=1e-3)
    assert open_recording(tmp_path / "record3d").frame(1).time_s == pytest.approx(2 / 60)


def test_frames_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    folder = made.scannet(tmp_path, made.poses())
    (folder / "pose" / "10.txt").write_text("-inf -inf -inf -inf\n" * 4)
    np.savetxt(folder / "pose" / "20.txt", 2 * np.eye(4))
    (folder / "depth" / "30.png").unlink()
    (folder / "depth" / "40.png").write_bytes((folder / "depth" / "40.png").read_bytes()[:200])
    recording = open_recording(folder)
    assert recording.notes == [
        "1 of 8 frames with a pose that is not rigid left out: 20",
        "1 of 8 frames with a pose that is not finite (tracking lost) left out: 10",
        "1 of 8 frames whose pictures are missing left out: 30 (no 30.png)",
    ]
    assert [recording.frame(index).name for index in (0, 2, 3, 4)] == ["0", "50", "60", "70"]
    with pytest.raises(InputError, match="40.png"):
        recording.frame(1)
    for path in (folder / "pose").iterdir():
        path.write_text("nan " * 16)
    refused(folder, "no frame with pictures and pose .*8 of 8 frames with a pose that is not finite")


def test_cameras_of_an_info_file_are_where_it_says(tmp_path):
    """ScanNet's tools and BundleFusion write the extrinsics that a .sens file has too."""
    walk, extrinsic = made.poses(3), made.poses(2)[1]
    info = made.three_rscan(tmp_path, walk) / "sequence" / "_info.txt"
    whole = info.read_text()

    def write(name: str, matrix: np.ndarray) -> None:
        info.write_text(f"{whole}m_calibration{name}Extrinsic = {' '.join(map(str, matrix.ravel()))}\n")

    write("Depth", extrinsic)
    frame = open_recording(tmp_path).frame(1)
    assert frame.color_camera is not None and frame.depth_camera is not None
    assert np.allclose(frame.color_camera.cam2world, walk[1])
    assert np.allclose(frame.depth_camera.cam2world, walk[1] @ extrinsic)
    write("Color", np.zeros((4, 4)))
    refused(tmp_path, "m_calibrationColorExtrinsic is no rigid transform")
    write("Color", np.eye(3))
    refused(tmp_path, "m_calibrationColorExtrinsic lacks its 16 numbers")


def test_endings_in_capitals(tmp_path):
    folder = made.seven_scenes(tmp_path, made.poses(2), "color.JPG", "depth.PNG")
    assert len(open_recording(folder)) == 2


NO_NUMBER = {"record3d": "metadata.json", "open3d json": "camera_trajectory.json"}


@pytest.mark.parametrize("kind", NO_NUMBER)
def test_poses_in_json_may_be_no_numbers(kind, tmp_path):
    """Programs in Python write NaN where tracking was lost, others null."""
    walk = made.poses(4)
    walk[0, 0, 3] = np.nan
    folder = made.WRITERS[kind](tmp_path, np.where(np.isnan(walk), 1000, walk))
    path = folder / NO_NUMBER[kind]
    found = json.loads(path.read_text())
    if kind == "record3d":
        found["poses"][2:] = [[float("nan")] * 7, None]
    else:
        found["parameters"][2]["extrinsic"][12] = float("-inf")
        found["parameters"][3]["extrinsic"] = [None] * 16
    path.write_text(json.dumps(found))
    recording = open_recording(folder)
    assert len(recording) == (1 if kind == "record3d" else 2)
    assert any("2 of 4 frames with a pose that is not finite" in note for note in recording.notes)


def test_decimal_commas_and_lines_of_other_lengths_are_named(tmp_path):
    path, commas = tmp_path / "m.txt", r"m.txt: .* decimal commas \(0,5\); write numbers with points"
    for text, words in [
        ("0,5 1\n2 3", commas), ("0,5 0,5 47,5 35,5", commas),
        ("1 2\n3", "lines have 1 to 2 of them"), ("1 x", "could not convert string to float: 'x'"),
    ]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_matrix(path)
    for text in ("1,2.5\n3,4", "1, 2.5,\n3 4", "1 2.5\n3e0 4"):
        path.write_text(text)
        assert read_matrix(path).tolist() == [[1, 2.5], [3, 4]]
    folder = made.tum(tmp_path / "tum", made.poses(2))
    truth = folder / "groundtruth.txt"
    truth.write_text(truth.read_text().replace(".", ","))
    refused(folder, "groundtruth.txt: is no matrix of numbers: it has decimal commas")


def test_poses_far_from_the_origin_lose_it(tmp_path):
    walk = made.poses()
    folder = made.open3d(tmp_path, walk)
    walk[:, :3, 3] += (4_500_000, 300, 7)
    (folder / "trajectory.log").write_text(made.log(walk))
    recording = open_recording(folder)
    assert np.allclose(recording.offset_m, (4_500_001, 300, 8), atol=1)
    assert np.allclose(recording.cam2world(3)[:3, 3] + recording.offset_m, walk[3, :3, 3])
    assert any("cameras are far from the origin" in note for note in recording.notes)


def test_given_options(tmp_path):
    folder = made.seven_scenes(tmp_path, made.poses())
    (folder / "camera-intrinsics.txt").unlink()
    refused(folder, "has no camera-intrinsics.txt and no _info.txt; give --intrinsics")
    recording = open_recording(folder, OpenOptions(intrinsics="80 80 47.5 35.5", depth_scale=2000))
    frame = recording.frame(0)
    assert frame.depth_camera is not None and np.array_equal(frame.depth_camera.K, made.K)
    assert frame.depth_m is not None and frame.depth_m.max() < 3
    shifted = open_recording(folder, OpenOptions(intrinsics=made.K, pose_shift=2))
    assert len(shifted) == 6 and np.allclose(shifted.cam2world(0), made.poses()[2])
    assert np.allclose(shifted.cam2world(0, shift=-2), made.poses()[0])
    assert np.isnan(shifted.cam2world(0, shift=-3)).all()
    turned = open_recording(folder, OpenOptions(intrinsics=made.K, axes="opengl", poses="world2cam"))
    assert np.allclose(turned.cam2world(1), np.linalg.inv(made.poses()[1]) @ np.diag([1, -1, -1, 1]))
    refused(folder, "'1 2 3' is no file; expected fx fy cx cy", intrinsics="1 2 3")
    refused(folder, "expected fx fy cx cy", intrinsics="a b c d")
    refused(folder, "depth_scale: found 0", depth_scale=0)
    refused(folder, "axes: found 'x'; expected one of opencv, opengl", axes="x")


def test_lists_that_disagree(tmp_path):
    folder = made.replica(tmp_path / "replica", made.poses())
    lines = (folder / "traj.txt").read_text().splitlines()
    (folder / "traj.txt").write_text("\n".join(lines[:-1]))
    refused(folder, "traj.txt: has 7 poses, but there are 8 pictures")
    folder = made.open3d(tmp_path / "open3d", made.poses())
    for k in (2, 5):
        (folder / "depth" / f"{k:05d}.png").unlink()
    recording = open_recording(folder)  # the log's numbers tell which are lost
    assert len(recording) == 6 and np.allclose(recording.cam2world(2), made.poses()[3])
    said = "2 of 8 frames whose pictures are missing left out: 2 (no depth), 5 (no depth)"
    assert any(said in note for note in recording.notes), recording.notes
    lines = (folder / "trajectory.log").read_text().splitlines()
    (folder / "trajectory.log").write_text("\n".join(lines[:10] + lines[15:25] + lines[30:]))
    recording = open_recording(folder)  # now the headings name the six that are there
    names = [recording.frame(index).name for index in range(len(recording))]
    assert names == ["00000", "00001", "00003", "00004", "00006", "00007"]
    assert np.allclose(recording.cam2world(2), made.poses()[3])


def test_a_log_may_count_from_0_what_pictures_count_from_1(tmp_path):
    folder = made.open3d(tmp_path, made.poses())
    (folder / "depth" / "00000.png").unlink()
    recording = open_recording(folder)
    assert len(recording) == 7 and np.allclose(recording.cam2world(0), made.poses()[1])
    (folder / "color" / "00000.jpg").unlink()  # it may as well be the last one that is lost
    refused(folder, "trajectory.log: has 8 poses, but there are 7 pictures")


@pytest.mark.parametrize(("kind", "color"), [("open3d", "color"), ("hololens", "images")])
def test_pictures_that_are_named_by_their_time_keep_its_order(kind, color, tmp_path):
    """Fractions of a second begin again with every second; list and pictures are paired by place."""
    walk = made.poses()
    folder = made.WRITERS[kind](tmp_path, walk)
    for name in (color, "depth"):
        for k, path in enumerate(sorted((folder / name).iterdir())):
            path.rename(path.with_name(f"{1305031102.75 + k / 3:.6f}{path.suffix}"))
    recording = open_recording(folder)
    for index in (0, 1, 7):
        frame = recording.frame(index)
        assert frame.depth_m is not None and frame.color is not None
        assert np.abs(frame.depth_m - made.depth_of(walk[index])).max() < 2e-3
        assert np.abs(frame.color.astype(int) - made.color_of(index)).max() < 16


def test_pictures_of_another_size_than_the_camera(tmp_path):
    folder = made.open3d(tmp_path, made.poses(2))
    camera = json.loads((folder / "intrinsic.json").read_text())
    (folder / "intrinsic.json").write_text(json.dumps({**camera, "width": 192}))
    with pytest.raises(InputError, match="is 96×72 pixels, its camera has 192×72"):
        open_recording(folder).frame(0)


@pytest.mark.parametrize("color", ["rgb", "images", "Color"])
def test_an_export_under_other_names(tmp_path, color):
    walk = made.poses(3)
    folder = made.scannet(tmp_path, walk)
    for name, other in (("color", color), ("depth", "Depth"), ("pose", "poses")):
        for path in [*(folder / name).iterdir()]:
            path.rename(path.with_name(f"frame-{int(path.stem):06d}{path.suffix}"))
        (folder / name).rename(folder / other)
    recording = open_recording(folder)
    assert (recording.layout, len(recording)) == ("scannet", 3)
    frame = recording.frame(1)
    assert frame.name == "frame-000010" and frame.color is not None and frame.depth_m is not None
    assert np.abs(frame.color.astype(int) - made.color_of(1)).max() < 16
    assert np.allclose(recording.cam2world(1), walk[1])


def test_where_pictures_are_expected_is_told_with_what_is_there(tmp_path):
    folder = made.scannet(tmp_path, made.poses(2))
    (folder / "color").rename(folder / "photos")
    for path in (folder / "depth").iterdir():
        path.rename(path.with_name(f"{path.stem}9.png"))
    refused(
        folder, r"expected .*color/0.jpg and .*depth/0.png .* holds depth/, intrinsic/, photos/, pose/"
    )


def test_intrinsics_whose_file_names_another_size(tmp_path):
    folder = made.scannet(tmp_path, made.poses(2))
    for camera in ("color", "depth"):
        (folder / "intrinsic" / f"intrinsic_{camera}.txt").unlink()
        larger = resize_intrinsics(made.K, made.SIZE, (108, 81))
        made.matrix(folder / "intrinsic" / f"intrinsic_{camera}_108x81.txt", larger)
    frame = open_recording(folder).frame(0)
    assert frame.color_camera is not None and frame.depth_camera is not None
    assert np.allclose(frame.color_camera.K, made.K) and np.allclose(frame.depth_camera.K, made.K)


def test_a_folder_of_a_mesh_is_told_to_give_the_file(tmp_path):
    (tmp_path / "a room.ply").touch()
    mesh = tmp_path / "a room.ply"
    refused(tmp_path, rf"holds a room.ply, no recording; give the file: `bifusion scan '{mesh}'`$")
    (tmp_path / "depth").mkdir()  # of a recording, perhaps
    refused(tmp_path, rf"give the file: `bifusion scan '{mesh}'`\); expected one of these layouts")


def test_what_is_no_recording(tmp_path):
    refused(tmp_path / "none", "no such file or folder")
    refused(tmp_path, "holds nothing; expected one of these layouts: scannet: color/ depth/")
    (tmp_path / "v.mp4").write_bytes(b"x")
    refused(tmp_path, r"holds v.mp4, no recording; v.mp4: a video has no poses.*mesh\)$")
    for name, words in {
        "a.mov": "a video has no poses", "a.bag": "bags hold no poses",
        "a.r3d": "is no readable ZIP archive",
        "a.splat": "Gaussian splats", "a.mkv": "Kinect", "a.zip": "an archive",
        "a.obj": "`bifusion scan`", "a.gltf": "as one .glb", "a.pcd": "`bifusion scan`",
        "a.e57": "`bifusion scan`", "a.fbx": "a kind that is not read; export it as .ply",
        "a.xyz": "export it as .ply, .las or .e57", "a.txt": "clouds of text", "a.pts": "clouds of text",
        "a.csv": "clouds of text", "a.bin": "is no recording that is known; expected a mesh or cloud",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(b"x")
        refused(tmp_path / name, words)
    made.hololens(tmp_path / "both", made.poses(2))
    made.scannet(tmp_path, made.poses(2)).rename(tmp_path / "scan")
    shutil.copytree(tmp_path / "scan", tmp_path / "both", dirs_exist_ok=True)
    refused(
        tmp_path / "both", "looks like several layouts: scannet .*, hololens .*choose one by --layout"
    )
    assert len(open_recording(tmp_path / "both", layout="hololens")) == 2
    with pytest.raises(InputError, match="layout: found 'x'; expected one of scannet, sens"):
        open_recording(tmp_path / "both", layout="x")
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


@pytest.mark.parametrize(
    ("layout", "writer", "other"),
    [("7scenes", "scannet", "frame-"), ("sens", "tum", "NAME.sens"), ("replica", "7scenes", "traj.txt")],
)
def test_a_layout_that_is_not_there(layout, writer, other, tmp_path):
    folder = made.WRITERS[writer](tmp_path / "r", made.poses(2))
    with pytest.raises(InputError, match=f"does not look like {layout}; expected .*{other}"):
        open_recording(folder, layout=layout)


def test_a_layout_that_is_asked_for_is_found_within(tmp_path):
    made.WRITERS["7scenes"](tmp_path / "archive" / "r", made.poses(2))
    assert open_recording(tmp_path / "archive", layout="7scenes").name == "r"


@pytest.mark.parametrize("size", [None, made.SIZE, (192, 144)])
def test_a_turned_picture_has_no_camera_of_the_stored_one(size, tmp_path):
    """Tag 6 makes 96×72 pictures 72×96; their camera has its centre at (47.5, 35.5)."""
    folder = made.WRITERS["7scenes"](tmp_path / "r", made.poses(2))
    exif = Image.Exif()
    exif[274] = 6
    for path in folder.glob("*.color.png"):
        Image.open(path).save(path, exif=exif)
    camera = tmp_path / "camera.json"
    K = made.K if size is None else resize_intrinsics(made.K, made.SIZE, size)
    if size is not None:
        stored = {"width": size[0], "height": size[1], "intrinsic_matrix": K.T.ravel().tolist()}
        camera.write_text(json.dumps(stored))
    recording = open_recording(folder, OpenOptions(None if size is None else str(camera)))
    words = r"frame-000000.color.png: its orientation tag \(6\) makes it 72×96 .* fit the 96×72"
    with pytest.raises(InputError, match=words):
        recording.frame(0)


@pytest.mark.parametrize("kind", ["7scenes", "sens"])
def test_given_intrinsics_are_of_colour(kind, tmp_path):
    """Depth of half colour's size has its camera resized."""
    if kind == "sens":
        place = made.sens(tmp_path / "r", made.poses(2), depth_step=2)
    else:
        place = made.seven_scenes(tmp_path / "r", made.poses(2))
    for path in place.glob("*.depth.png"):
        Image.fromarray(np.array(Image.open(path))[::2, ::2]).save(path)
    frame = open_recording(place, OpenOptions("80 80 47.5 35.5")).frame(0)
    assert frame.color_camera is not None and frame.depth_camera is not None
    assert np.allclose(frame.color_camera.K, made.K) and frame.depth_camera.size == (36, 48)
    assert np.allclose(frame.depth_camera.K, resize_intrinsics(made.K, made.SIZE, (48, 36)))


def test_a_folder_within_a_folder(tmp_path):
    made.open3d(tmp_path / "a" / "b", made.poses(2))
    (tmp_path / "readme.txt").write_text("hello")
    assert open_recording(tmp_path).layout == "open3d"
    made.sens(tmp_path / "c", made.poses(2))
    assert open_recording(tmp_path / "c").layout == "sens"


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "C:\\x.png", "a/../../b", "..\\x"])
def test_lists_that_leave_their_folder(name, tmp_path):
    with pytest.raises(InputError, match="which leaves"):
        inside(tmp_path, name, tmp_path / "rgb.txt")
    folder = made.tum(tmp_path / "r", made.poses(2))
    text = (folder / "rgb.txt").read_text().splitlines()
    (folder / "rgb.txt").write_text("\n".join([f"{text[0].split()[0]} {name}", *text[1:]]))
    refused(folder, "which leaves|expected lines of time")


def test_a_sens_file_that_lies(tmp_path):
    path = made.sens(tmp_path, made.poses())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    recording = open_recording(path)
    assert 0 < len(recording) < 8 and "the file is cut short" in recording.notes[0]
    path.write_bytes(whole[:200])
    refused(path, "is cut short within its header")
    path.write_bytes(b"\x03" + whole[1:])
    refused(path, "is of version 3; expected a .sens file of version 4")
    bomb = bytearray(whole)
    bomb[18 + 256 + 8 : 18 + 256 + 12] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(bomb)
    refused(path, "says its pictures are 2147483648×72")


def test_pictures_too_large_are_not_decoded(tmp_path):
    folder = made.open3d(tmp_path, made.poses(2))
    small = BytesIO()
    Image.new("L", (1, 1)).save(small, "PNG")
    large = bytearray(small.getvalue())
    large[16:24] = struct.pack(">II", 30_000, 30_000)
    large[29:33] = struct.pack(">I", zlib.crc32(large[12:29]))
    (folder / "color" / "00000.jpg").write_bytes(large)
    with pytest.raises(InputError, match="00000.jpg: .*(too large|30000×30000)"):
        open_recording(folder).frame(0)


def test_nearest_times():
    times = np.array([3.0, 1.0, 2.0])
    assert nearest(times, np.array([-5, 1.4, 1.6, 9])).tolist() == [1, 1, 2, 0]
    assert nearest(np.array([7.0]), np.array([1.0, 9.0])).tolist() == [0, 0]
