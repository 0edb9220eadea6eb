"""Open3D's layout: which colour picture is of which depth picture, and which file holds the poses."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import phone_recordings as phones
import recording_factory as made
from bifusion.datasets.recordings.file_recording import FileRecording
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.pairs import pair
from bifusion.datasets.recordings.pictures import COLOR_ENDINGS, name_times_s, numbered
from bifusion.errors import InputError
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


def names_by_number(folder: Path, names: list[str]) -> dict[int, str]:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return {number: path.name for number, path in numbered(folder, COLOR_ENDINGS).items()}


def test_pictures_counted_behind_a_point_stay_apart(tmp_path):
    """cam0.1, cam0.10 and cam0.100 are no times, of which all three would be one."""
    counted = {k: f"cam0.{k}.png" for k in range(1, 101)}
    assert names_by_number(tmp_path / "counted", [*counted.values()]) == counted
    few = {k: f"cam0.{k}.png" for k in (1, 2, 9)}
    assert names_by_number(tmp_path / "few", [*few.values()]) == few
    assert name_times_s(["cam0.9", "cam0.10"]) is None


def test_times_in_seconds_are_told_from_counting(tmp_path):
    fixed = [f"{1305031102 + k / 8:.6f}.png" for k in range(16)]
    assert [*names_by_number(tmp_path / "fixed", fixed).values()] == fixed
    brief = ["0.0.png", "0.033.png", "0.1.png", "0.1335.png", "1.25.png", "1.5.png"]  # as Python's str
    assert [*names_by_number(tmp_path / "brief", brief).values()] == brief
    assert names_by_number(tmp_path / "one", ["1305031102.5.png", "1305031103.25.png"]).keys() == {
        1305031102500000000,
        1305031103250000000,
    }


@pytest.mark.parametrize(
    "names", [("frame_01.png", "frame_1.png"), ("0 (1).jpg", "1.jpg"), ("0.color.jpg", "0.depth.png")]
)
def test_two_pictures_of_one_number_are_refused_by_name(tmp_path, names):
    first, second = (name.replace("(", r"\(").replace(")", r"\)") for name in names)
    with pytest.raises(InputError, match=f"{first} and {second} have the same number"):
        names_by_number(tmp_path / "r", [*names])


def test_one_picture_in_two_formats_is_no_doubt(tmp_path):
    assert names_by_number(tmp_path / "r", ["1.png", "1.jpg"]) == {1: "1.jpg"}


def test_two_depth_maps_of_one_time_are_refused_by_name(tmp_path):
    """As of two videos in one folder."""
    folder = phones.arkitscenes(tmp_path / "r", made.poses(3))
    first = min((folder / "lowres_depth").iterdir())
    shutil.copy(first, first.with_name(first.name.replace("41_", "42_")))
    refused(folder, f"{first.name} and 42_.* are of the same time")


def renamed(folder, change):
    """The numbered files of a folder under other names."""
    files = sorted(folder.iterdir(), key=lambda path: int(re.findall(r"\d+", path.name)[-1]))
    aside = [path.rename(path.with_name(f"aside-{path.name}")) for path in files]
    for k, path in enumerate(aside):
        path.rename(path.with_name(change(k) + path.suffix))


@pytest.mark.parametrize("kind", ["color", "depth", "pose"])
def test_pictures_counted_from_another_number_than_poses_are_refused(kind, tmp_path):
    folder = made.scannet(tmp_path, made.poses(6))
    for name in ("color", "depth", "pose"):
        renamed(folder / name, lambda k, name=name: f"{k + (name == kind)}")
    refused(folder, "6 (colour|depth) pictures from .*, 6 poses from .*cannot be told; give a pair the")
    renamed(folder / kind, str)
    assert len(open_recording(folder)) == 6  # now that they are counted alike


@pytest.mark.parametrize(("layout", "place", "form"), [
    ("replica", "results", "depth{:06d}"), ("hololens", "depth", "{:05d}"),
])  # fmt: skip
def test_depth_counted_from_another_number_than_colour_is_refused(layout, place, form, tmp_path):
    folder = made.WRITERS[layout](tmp_path / "r", made.poses(6))
    depths = sorted((folder / place).glob("depth*" if layout == "replica" else "*"), reverse=True)
    first = 1 if layout == "replica" else 4
    for k, path in zip(range(5, -1, -1), depths, strict=True):
        path.rename(path.with_name(form.format(first + k) + path.suffix))
    refused(folder, "6 colour pictures from .*, 6 of depth from .*cannot be told; give a pair the same")


def test_an_export_may_name_its_files_by_times(tmp_path):
    walk = made.poses(4)
    folder = made.scannet(tmp_path, walk)
    for name in ("color", "depth", "pose"):
        renamed(folder / name, lambda k: f"{1305031102 + k / 30:.6f}")
    recording = open_recording(folder)
    assert [np.allclose(recording.cam2world(k), walk[k]) for k in range(4)] == [True] * 4
