"""The check of a recording: what it finds wrong, and that it lets pass what is right."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import needs
import recording_factory as made
from bifusion.datasets.recordings import agreement as agreement_module
from bifusion.datasets.recordings.agreement import agreement, neighbours, sample
from bifusion.datasets.recordings.check import RecordingCheck, check_recording
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.reading import Reading, inverse
from bifusion.datasets.recordings.upright import TURN, camera_up, quarter_turns, turn_frame, upright
from bifusion.errors import InputError

READINGS = [
    Reading(axes, poses)  # pyright: ignore[reportArgumentType]
    for axes in ("opencv", "opengl")
    for poses in ("cam2world", "world2cam")
]


@pytest.mark.parametrize("stored", READINGS, ids=lambda reading: f"{reading.axes} {reading.poses}")
def test_every_reading_is_told_from_the_others(stored, tmp_path):
    """Poses stored in any of four ways and declared as cam2world of OpenCV."""
    folder = made.seven_scenes(tmp_path, stored.stored(made.poses()))
    for path, pose in zip(sorted(folder.glob("*.depth.png")), made.poses(), strict=True):
        made.picture(path, made.units(pose, 1000))
    if stored == Reading():
        check = check_recording(open_recording(folder))
        assert check.pairs == 8 and check.as_read_m < 0.02
        assert min(check.otherwise_m.values()) > 2 * check.as_read_m
        return
    with pytest.raises(InputError, match=f"times nearer with {stored.options_from(Reading())}: it is"):
        check_recording(open_recording(folder))
    right = open_recording(folder, OpenOptions(axes=stored.axes, poses=stored.poses))
    assert check_recording(right).as_read_m < 0.02


def test_shifted_poses_are_told(tmp_path):
    walk = made.poses(10)
    folder = made.open3d(tmp_path, walk)
    for k in range(8):
        made.picture(folder / "depth" / f"{k:05d}.png", made.units(walk[k + 2], 1000))
    with pytest.raises(InputError, match="times nearer with --pose-shift 2"):
        check_recording(open_recording(folder))
    assert check_recording(open_recording(folder, OpenOptions(pose_shift=2))).as_read_m < 0.02


@pytest.mark.parametrize("scale", [5000, 200, 6553.5, 10000])
def test_the_depths_unit_is_told(scale, tmp_path):
    folder = made.hololens(tmp_path, made.poses())
    for k, pose in enumerate(made.poses()):
        raw = np.minimum(made.depth_of(pose) * scale, 65534)
        made.picture(folder / "depth" / f"{k + 3:05d}.png", np.rint(raw).astype(np.uint16))
    with pytest.raises(InputError, match=f"times nearer with --depth-scale {scale:g}: it is"):
        check_recording(open_recording(folder))
    assert check_recording(open_recording(folder, OpenOptions(depth_scale=scale))).as_read_m < 0.02


@pytest.mark.parametrize(("kind", "units"), [("hololens", 1000), ("hololens", 100), ("record3d", 1000)])
def test_the_poses_unit_is_told(kind, units, tmp_path):
    walk = made.poses()
    folder = made.WRITERS[kind](tmp_path, walk)
    if kind == "hololens":
        walk[:, :3, 3] *= units
        np.savetxt(folder / "poses.txt", walk.reshape(len(walk), 16))
    else:
        found = json.loads((folder / "metadata.json").read_text())
        found["poses"] = [[*pose[:4], *(units * place for place in pose[4:])] for pose in found["poses"]]
        (folder / "metadata.json").write_text(json.dumps(found))
    unit = {1000: "millimetres", 100: "centimetres"}[units]
    words = f"nearer with poses in {unit}: .* multiply the translations of its poses by {1 / units:g}"
    with pytest.raises(InputError, match=words):
        check_recording(open_recording(folder))


def test_depth_that_no_room_has(tmp_path):
    folder = made.open3d(tmp_path, made.poses())
    with pytest.raises(InputError, match="the median depth is .* which no room has, with 1 units"):
        check_recording(open_recording(folder, OpenOptions(depth_scale=1)))
    for path in (folder / "depth").iterdir():
        made.picture(path, np.zeros((72, 96), np.uint16))
    with pytest.raises(InputError, match="no pixel of the frames that were tried has a depth"):
        check_recording(open_recording(folder))


def test_a_camera_that_stands_still_is_not_judged(tmp_path):
    """Nothing tells readings apart: no alarm, whatever is declared."""
    walk = np.stack([made.poses()[0]] * 4)
    for options in (OpenOptions(), OpenOptions(axes="opengl")):
        check = check_recording(open_recording(made.open3d(tmp_path, walk), options))
        assert any("how poses are read is not checked" in line for line in check.lines)


def test_frames_that_cannot_be_read_are_named(tmp_path):
    folder = made.open3d(tmp_path, made.poses())
    (folder / "depth" / "00003.png").write_bytes(b"no picture")
    check = check_recording(open_recording(folder))
    assert any("left out" in line and "00003.png" in line for line in check.lines)
    for path in (folder / "depth").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of the frames that were tried can be read: .*png"):
        check_recording(open_recording(folder))


def test_neighbours_are_near_but_not_the_same(tmp_path):
    """Of 60 frames a centimetre apart: at most ten pairs, each some frames apart."""
    walk = np.stack([made.poses()[0]] * 60)
    walk[:, 0, 3] += 0.01 * np.arange(60)
    for k, pose in enumerate(walk):
        np.savetxt(tmp_path / f"{k:05d}.txt", pose)
        made.picture(tmp_path / f"{k:05d}.jpg", made.color_of(0))
        made.picture(tmp_path / f"{k:05d}.png", made.units(pose, 1000))
    np.savetxt(tmp_path / "intrinsic.txt", made.K)
    recording = open_recording(tmp_path)
    pairs = neighbours(recording)
    assert 5 <= len(pairs) <= 10 and {abs(first - second) for first, second in pairs} <= {5, 6}
    sampled = sample(recording)
    assert agreement(recording, sampled, recording.reading) < 0.02


def sideways(tmp_path: Path, turns: int):
    """A recording of HoloLens (y up) whose pictures must be turned clockwise so often."""
    y_up = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    walk = made.poses()
    stored = walk @ np.linalg.matrix_power(inverse(TURN), turns)
    folder = made.hololens(tmp_path, y_up @ stored)
    for k, pose in enumerate(stored):
        made.picture(folder / "depth" / f"{k + 3:05d}.png", made.units(pose, 1000))
    return open_recording(folder), y_up @ walk


def test_an_up_that_is_given_decides_how_pictures_lie(tmp_path):
    recording, _ = sideways(tmp_path, 1)
    lines = check_recording(recording, camera_up(recording)).lines
    assert not any("sideways" in line for line in lines)
    assert any(
        re.fullmatch(r"-?[xyz] is up, as given; the cameras' mean up is 0° from it", x) for x in lines
    )


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_sideways_pictures_are_turned_upright(turns, tmp_path):
    recording, walk = sideways(tmp_path, turns)
    check = check_recording(recording)
    assert check.quarter_turns == quarter_turns(recording) == turns
    assert any("sideways" in line for line in check.lines) == bool(turns)
    turned = upright(recording)
    assert quarter_turns(turned) == 0 and np.allclose(turned.cam2world(2), walk[2])
    frame, original = turned.frame(2), recording.frame(2)
    assert frame.depth_camera is not None and frame.depth_m is not None and frame.color is not None
    height, width = frame.depth_camera.size
    assert frame.depth_m.shape == frame.color.shape[:2] == (height, width)
    true = made.depth_of(made.poses()[2], frame.depth_camera.K, (width, height))
    assert np.abs(frame.depth_m - true).max() < 2e-3
    assert check_recording(turned).as_read_m < 0.02
    again = turn_frame(frame, -turns % 4)
    assert np.array_equal(again.color, original.color)
    assert again.depth_camera is not None and original.depth_camera is not None
    assert np.allclose(again.depth_camera.K, original.depth_camera.K)
    assert np.allclose(again.depth_camera.cam2world, original.depth_camera.cam2world)


def real_check(name: str, **options) -> RecordingCheck:
    folder = needs.folder("BIFUSION_REAL_DATA", "data") / name
    if not folder.is_dir():
        needs.lacking("real_data", folder)
    return check_recording(open_recording(folder, OpenOptions(**options)))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "most", "declared"),
    [
        ("rgbd_redkitchen", 0.018, Reading()),
        ("rgbd_open3d5", 0.010, Reading()),
        ("scannet/rgbd_scene0000_00", 0.025, Reading()),
        ("recordings/record3d_exr", 0.005, Reading(axes="opengl")),
    ],
)
def test_real_recordings_are_told_right_from_wrong(name, most, declared, monkeypatch):
    read, frames = agreement_module._back_projected, []
    monkeypatch.setattr(
        agreement_module, "_back_projected", lambda *asked: frames.append(asked) or read(*asked)
    )
    check = real_check(name)
    assert len(frames) <= 2 * agreement_module.MOST_PAIRS, "it takes seconds, however long the recording"
    assert check.as_read_m < most
    poses = [
        m for option, m in check.otherwise_m.items() if "shift" not in option and "scale" not in option
    ]
    assert len(poses) == 3 and min(poses) > 4 * check.as_read_m
    for reading in READINGS:
        if reading != declared:
            with pytest.raises(
                InputError, match=f"times nearer with {declared.options_from(reading)}: it"
            ):
                real_check(name, axes=reading.axes, poses=reading.poses)
