"""Open3D's layout: which colour picture is of which depth picture, and which file holds the poses."""

from pathlib import Path

import numpy as np
import pytest

import recording_factory as made
from bifusion.datasets.recordings.file_recording import FileRecording
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.pairs import pair
from bifusion.datasets.recordings.pictures import name_times_s
from refused_recordings import refused


def agrees(folder: Path, numbers: list[int], pictured: list[int] | None = None) -> list[str]:
    """The frames are those of the walk, each with its own picture, pose and depth; returns the notes."""
    recording, walk = open_recording(folder), made.poses()
    assert isinstance(recording, FileRecording) and recording.layout == "open3d"
    assert len(recording) == len(numbers)
    for index, k in enumerate(numbers):
        frame = recording.frame(index)
        assert np.allclose(recording.cam2world(index), walk[k])
        assert frame.depth_m is not None
        assert np.abs(frame.depth_m - made.depth_of(walk[k])).max() < 2e-3
        assert (frame.color is not None) == (pictured is None or k in pictured)
        if frame.color is not None:
            assert np.abs(frame.color.astype(int) - made.color_of(k)).max() < 16
    return recording.notes


def pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    return sorted((folder / "image").iterdir()), sorted((folder / "depth").iterdir())


def test_times_in_names():
    found = name_times_s(["0000010-000001228920", "1305031102.175304"])
    assert found is not None and found.tolist() == [1.22892, 1305031102.175304]
    assert name_times_s(["0000010-000001228920", "00010"]) is None


def test_streams_of_numbers_and_times(tmp_path):
    notes = agrees(made.redwood(tmp_path, made.poses()), [*range(8)])
    said = "paired by the times in their names: 8 of 8 colour pictures have depth within 20 ms"
    assert notes == [said] and open_recording(tmp_path).frame(1).time_s == pytest.approx(1.267995)


def test_streams_of_which_one_lost_pictures(tmp_path):
    """The poses are of the stream that has as many pictures."""
    folder = made.redwood(tmp_path / "colour", made.poses())
    colors, _ = pictures(folder)
    colors[2].unlink()
    colors[5].unlink()
    notes = agrees(folder, [*range(8)], [0, 1, 3, 4, 6, 7])
    assert "6 of 6 colour pictures have depth" in notes[0] and "2 of 8 frames have no" in notes[1]
    folder = made.redwood(tmp_path / "depth", made.poses())
    pictures(folder)[1][3].unlink()
    notes = agrees(folder, [0, 1, 2, 4, 5, 6, 7])
    assert "7 of 8 colour pictures have depth" in notes[0] and "(no depth)" in notes[1]
    (folder / "scene" / "key.log").write_text(made.log(made.poses(6)))
    refused(folder, "key.log: has 6 poses, but there are 7 pictures")


def test_colour_and_depth_that_lost_one_each_are_refused(tmp_path):
    folder = made.redwood(tmp_path / "r", made.poses())
    colors, depths = pictures(folder)
    colors[2].unlink()
    depths[5].unlink()
    words = f"{colors[3].name} and {depths[2].name}, each the 3. of its folder, are 0.028 s apart"
    refused(folder, f"7 colour pictures from {colors[0].name} on, 7 of depth from .*, but {words}")


def test_other_numbers_go_by_place_where_there_are_as_many(tmp_path):
    """Open3D's synchronize_frames.py gives depth new names and leaves colour its own."""
    folder = made.redwood(tmp_path, made.poses())
    for k, path in enumerate(pictures(folder)[1]):
        path.rename(path.with_name(f"{k + 1:06d}.png"))
    notes = agrees(folder, [*range(8)])
    assert (
        "8 of depth from 000001.png on, whose numbers are not alike: paired in their order" in notes[0]
    )
    pictures(folder)[0][7].unlink()
    refused(folder, "7 colour pictures .*, 8 of depth .* cannot be told; give a pair the same number")


def test_numbers_that_begin_elsewhere_are_no_pairs(tmp_path):
    folder = made.open3d(tmp_path, made.poses())
    for path in sorted((folder / "color").iterdir(), reverse=True):
        path.rename(path.with_name(f"{int(path.stem) + 1:05d}.jpg"))
    refused(folder, "whether those of one number belong together or those of one place cannot be told")
    for path in sorted((folder / "color").iterdir(), reverse=True):
        path.rename(path.with_name(f"{int(path.stem) + 1000:05d}.jpg"))
    agrees(folder, [*range(8)])


def test_nothing_to_pair(tmp_path):
    assert pair(tmp_path, {}, {1: tmp_path / "1.png"}).color_of() == [None]
    assert pair(tmp_path, {1: tmp_path / "1.jpg"}, {}).depth_of == [None]


@pytest.mark.parametrize("name", ["bedroom.log", "lounge_trajectory.log", "livingroom1-traj.txt"])
def test_logs_of_other_names(name, tmp_path):
    folder = made.open3d(tmp_path / "r", made.poses())
    log = (folder / "trajectory.log").rename(folder / name)
    (folder / "odometry.log").write_text(log.read_text())
    (folder / "run.log").write_text("started\n1 2 3\n1 2 3 4\n")
    (folder / "numbers.log").write_text("0 0 1\n" + "1 2 3 4\n" * 3 + "0 0 0 one\n")
    agrees(folder, [*range(8)])
    (folder / "z.log").write_text(log.read_text())
    refused(folder, f"which of {name}, z.log holds the poses. Name it trajectory.log")
    log.unlink()
    (folder / "z.log").unlink()
    refused(folder, "expected one of these layouts")


def test_a_camera_by_open3ds_other_names(tmp_path):
    folder = made.open3d(tmp_path, made.poses(2))
    (folder / "intrinsic.json").rename(folder / "camera.json")
    assert open_recording(folder).notes == []
