"""TUM RGB-D's layout: lists, scale of depth, cameras known by name."""

import shutil

import numpy as np
import pytest

import recording_factory as made
from bifusion.datasets.recordings.check import check_recording
from bifusion.datasets.recordings.layouts.tum import read_pairs
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.poses import astray
from bifusion.errors import InputError
from refused_recordings import refused


def test_depth_scale_of_tum_is_judged(tmp_path):
    own = open_recording(made.tum(tmp_path / "own", made.poses(), scale=1000))
    assert own.depth_scale == 1000 and "depth has 1000 units a metre: frames agree" in own.notes[-1]
    assert open_recording(tmp_path / "own", OpenOptions(depth_scale=5000)).depth_scale == 5000
    theirs = made.tum(tmp_path / "rgbd_dataset_freiburg3_x", made.poses(), scale=1000)
    assert open_recording(theirs).depth_scale == 5000  # the name says TUM: the check would object


def test_each_picture_lies_where_the_camera_was_at_its_own_time(tmp_path):
    """Poses of 200 a second, depth 5 ms after colour: a surface is made of depth."""
    walk = made.poses(8)
    folder = made.tum(tmp_path, walk[::2])
    times = [100 + k / 30 + apart for k in range(4) for apart in (0.0, 0.005)]
    at_colour = [
        line.split(" ", 1)[1] for line in (folder / "groundtruth.txt").read_text().splitlines()[1:]
    ]
    at_depth = [f"{float(line.split()[0]) + 1:.6f} {line.split(' ', 1)[1]}" for line in at_colour]
    poses = [pose for pair in zip(at_colour, at_depth, strict=True) for pose in pair]
    rows = [f"{time:.4f} {pose}" for time, pose in zip(times, poses, strict=True)]
    (folder / "groundtruth.txt").write_text("\n".join(rows))
    recording = open_recording(folder)
    for k in range(4):
        frame, moved = recording.frame(k), recording.cam2world(k) - walk[2 * k]
        assert np.allclose(frame.color_camera.cam2world, walk[2 * k], atol=1e-5)
        assert np.allclose(frame.depth_camera.cam2world, recording.cam2world(k))
        assert np.allclose(moved[:3, 3], (1, 0, 0), atol=1e-5)


def test_no_depth_is_fused_twice_where_there_are_more_pictures(tmp_path):
    """Two pictures for each depth map, which would count as two measurements."""
    folder = made.tum(tmp_path, made.poses(4))
    rows = (folder / "rgb.txt").read_text().splitlines()
    more = [f"{float(time) - 0.01:.4f} {name}" for time, name in map(str.split, rows)]
    (folder / "rgb.txt").write_text("\n".join(sorted([*rows, *more])))
    pairs = read_pairs(folder)
    assert len(pairs) == len({pair.depth for pair in pairs}) == 4
    assert [f"{pair.color_s:.4f}" for pair in pairs] == [row.split()[0] for row in rows]


def test_a_pose_kilometres_from_all_others_is_left_out_and_named(tmp_path):
    walk = made.poses(9)
    folder = made.tum(tmp_path, walk)
    path = folder / "groundtruth.txt"
    rows = [line.split() for line in path.read_text().splitlines()[1:]]
    rows[4][2] = "-40000"
    path.write_text("\n".join(map(" ".join, rows)))
    recording = open_recording(folder)
    assert "1 of 9 frames with a pose kilometres from all others left out: 100.1333" in recording.notes
    kept = [walk[k] for k in range(9) if k != 4]
    assert np.allclose([recording.cam2world(k) for k in range(8)], kept, atol=2e-6)


@pytest.mark.parametrize("kind", made.WRITERS)
def test_a_pose_kilometres_away_is_named_alike_in_every_layout(kind, tmp_path, monkeypatch):
    walk, depth_of = made.poses(9), made.depth_of
    monkeypatch.setattr(made, "depth_of", lambda pose, *more: depth_of(near[pose.tobytes()], *more))
    near = {pose.tobytes(): pose.copy() for pose in walk}
    near[(far := walk[4] + np.array([[0, 0, 0, -40000.0]] * 3 + [[0] * 4])).tobytes()] = walk[4].copy()
    walk[4] = far
    recording = open_recording(made.WRITERS[kind](tmp_path / "r", walk))
    (said,) = (note for note in recording.notes if "kilometres" in note)
    assert said.startswith("1 of 9 frames with a pose kilometres from all others left out: ")
    assert not any("tracking lost" in note for note in recording.notes)
    assert np.abs([recording.cam2world(k) for k in range(len(recording))]).max() < 100


def test_no_pose_of_a_walk_in_millimetres_is_astray():
    walk = 1000 * made.poses(9)[:, :3, 3]
    assert not astray(walk).any() and not astray(walk + 5e8).any()
    walk[0] -= 4e7
    assert astray(walk).tolist() == [True] + [False] * 8


def test_a_trajectory_of_another_clock_is_told(tmp_path):
    folder = made.tum(tmp_path, made.poses(3))
    path = folder / "groundtruth.txt"
    lines = [line.split(" ", 1) for line in path.read_text().splitlines()[1:]]
    path.write_text("\n".join(f"{float(time) + 100} {pose}" for time, pose in lines))
    refused(folder, r"groundtruth.txt: is of 200.00 … 200.07 s, the pictures are of 100.0\d … 100.07 s")
    path.write_text("\n".join(f"{float(time) * 1e9:.0f} {pose}" for time, pose in lines))
    refused(folder, "times so large are nanoseconds")


def test_quaternions_with_the_scalar_first_are_told_as_that(tmp_path):
    folder = made.tum(tmp_path / "own", made.poses(8))
    truth = folder / "groundtruth.txt"
    rows = [line.split() for line in truth.read_text().splitlines()[1:]]
    truth.write_text("\n".join(" ".join([*row[:4], row[7], *row[4:7]]) for row in rows))
    with pytest.raises(InputError, match="nearer with quaternions as qw qx qy qz: .*the scalar last"):
        check_recording(open_recording(folder))


def test_names_with_blanks_are_read(tmp_path):
    folder = made.tum(tmp_path / "own", made.poses(3))
    (folder / "rgb").rename(folder / "my rgb")
    text = (folder / "rgb.txt").read_text()
    (folder / "rgb.txt").write_text(text.replace(" rgb/", " my rgb/"))
    recording = open_recording(folder)
    assert len(recording) == 3 and all(recording.has_picture(k) for k in range(3))


def test_associations_with_depth_first(tmp_path):
    folder = made.tum(tmp_path, made.poses(3))
    right = read_pairs(folder)
    lists = [(folder / name).read_text().splitlines() for name in ("depth.txt", "rgb.txt")]
    (folder / "associations.txt").write_text("\n".join(map(" ".join, zip(*lists, strict=True))))
    assert read_pairs(folder) == right


def test_trajectories_of_rtabmap_and_orb_slam(tmp_path):
    folder = made.tum(tmp_path, made.poses(3))
    right = [open_recording(folder).cam2world(k) for k in range(3)]
    theirs = folder / "groundtruth.txt"
    rows = [line for line in theirs.read_text().splitlines() if not line.startswith("#")]
    theirs.write_text("\n".join(["#timestamp x y z qx qy qz qw id", *(f"{row} 7" for row in rows)]))
    theirs = theirs.rename(folder / "KeyFrameTrajectory.txt")
    assert np.allclose([open_recording(folder).cam2world(k) for k in range(3)], right)
    theirs.write_text("\n".join([rows[0], *(f"{row} 7" for row in rows[1:])]))
    refused(folder, r"KeyFrameTrajectory.txt: has lines of 8, 9 columns; expected time, tx ty tz")
    theirs.write_text("")
    refused(folder, "has lines of no columns")


def test_cameras_of_tum_are_known_by_name(tmp_path):
    folder = made.tum(tmp_path / "rgbd_dataset_freiburg2_desk", made.poses(2))
    (folder / "camera-intrinsics.txt").unlink()
    recording = open_recording(folder)
    assert any("freiburg2; its lens distorts" in note for note in recording.notes)
    refused(shutil.copytree(folder, tmp_path / "other"), "says nothing of its camera; give --intrinsics")


def test_pictures_that_are_listed_twice_count_once(tmp_path):
    folder = made.tum(tmp_path / "r", made.poses(6))
    for name in ("rgb.txt", "depth.txt"):
        (folder / name).write_text(2 * (folder / name).read_text())
    recording = open_recording(folder)
    assert len(recording) == 6 and all(recording.has_picture(k) for k in range(6))
