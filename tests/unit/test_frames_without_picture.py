"""Frames that have depth and a pose but no picture: they give the surface, and no colours and views."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import phone_recordings as phones
import recording_factory as made
from bifusion.datasets.fusion.choice import choose_frames
from bifusion.datasets.fusion.fuse import fuse
from bifusion.datasets.fusion.volume import FusionConfig
from bifusion.datasets.recordings.check import check_recording
from bifusion.datasets.recordings.file_recording import picture_notes
from bifusion.datasets.recordings.frame import Recording
from bifusion.datasets.recordings.layouts.tum import read_pairs
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.options import OpenOptions
from bifusion.datasets.recordings.upright import TurnedRecording
from bifusion.datasets.scan.make import make_scan
from bifusion.datasets.scan.options import ScanOptions
from depth_pictures import HALF, Pictures, box_from_within
from refused_recordings import refused

COARSE = FusionConfig(voxel_size_m=0.06)
WRITERS = {**made.WRITERS, **phones.WRITERS}
PICTURES = {
    "scannet": "color/*", "7scenes": "*.color.png", "7scenes of 3RScan": "*/*.color.jpg",
    "tum": "rgb/*", "open3d": "color/*", "open3d json": "color/*", "replica": "results/frame*",
    "record3d": "rgb/*", "nerfstudio": "images/*", "polycam": "keyframes/corrected_images/*",
    "scannerapp": "frame_*.jpg", "arkitscenes": "lowres_wide/*",
}  # fmt: skip
"""Layouts whose pictures are files by themselves, and those files."""


@pytest.mark.parametrize("kind", PICTURES)
def test_every_layout_keeps_the_depth_of_frames_without_picture(kind, tmp_path):
    place = WRITERS[kind](tmp_path / "r", made.poses(5))
    whole = open_recording(place)
    before = {k: whole.frame(k) for k in (1, 2)}
    lost = sorted(place.rglob(PICTURES[kind]))[:: 2 if kind == "arkitscenes" else 1][2]
    lost.unlink()
    recording = open_recording(place)
    assert len(recording) == len(whole) and isinstance(recording, Recording)
    without = [k for k in range(len(recording)) if not recording.has_picture(k)]
    assert without == [2]
    for k in (1, 2):
        frame, camera = recording.frame(k), before[k].depth_camera
        assert (frame.color is None) == (k == 2) == (frame.color_camera is None)
        assert frame.depth_camera is not None and camera is not None
        assert np.array_equal(frame.depth_camera.K, camera.K)
        assert np.allclose(recording.cam2world(k), whole.cam2world(k))
        assert np.array_equal(frame.depth_m, before[k].depth_m)
    said = f"1 of {len(whole)} frames have no picture: their depth is used"
    assert any(note.startswith(said) and note.endswith(f": {frame.name}") for note in recording.notes)
    line = check_recording(recording).lines[0]
    assert line.endswith(f", {len(whole) - 1} of them with a picture")
    assert not TurnedRecording(recording, 1).has_picture(2)


def test_sens_files_without_some_pictures(tmp_path, monkeypatch):
    """Recorders that keep each tenth picture write none of the others."""
    monkeypatch.setattr(made, "BytesIO", _every_other(made.BytesIO))
    recording = open_recording(made.sens(tmp_path, made.poses(4)))
    assert [recording.has_picture(k) for k in range(4)] == [True, False, True, False]
    frame = recording.frame(1)
    assert frame.color is None and frame.depth_m is not None
    assert (
        picture_notes(["000000", "000001", "000002", "000003"], np.array([1, 0, 1, 0], bool))[0]
        in recording.notes
    )
    monkeypatch.setattr(made, "BytesIO", _every_other(made.BytesIO, beginning=1))
    refused(
        made.sens(tmp_path / "none", made.poses(1)), "no frame with a pose and a picture .*none of 1"
    )


def _every_other(stream: type, beginning: int = 0) -> Callable[[], object]:
    count = beginning

    class Stream(stream):
        def getvalue(self) -> bytes:
            nonlocal count
            count += 1
            return super().getvalue() if count % 2 else b""

    return Stream


def test_a_recording_without_any_picture_is_refused(tmp_path):
    place = made.open3d(tmp_path, made.poses(3))
    for path in (place / "color").iterdir():
        path.unlink()
    refused(place, "no frame with pictures and pose .*none of 3 frames has a picture, .*copy")


def test_depth_of_a_camera_of_pictures_goes_by_the_pictures_there_are(tmp_path):
    place = phones.polycam(tmp_path / "r", made.poses(3))
    first, second, _ = sorted((place / "keyframes" / "corrected_images").iterdir())
    first.unlink()
    options = OpenOptions("150 150 95.5 71.5")
    recording = open_recording(place, options)
    for index in (0, 2):
        camera = recording.frame(index).depth_camera
        assert camera is not None and camera.K[0, 0] == 75  # the given one is of twice that size
    second.write_bytes(b"no picture")
    assert open_recording(place, options).frame(0).depth_camera is not None


def test_colmaps_pictures_are_all_that_its_frames_are_for(tmp_path):
    """Its depth is rendered from the surface, to which it adds nothing."""
    place = phones.colmap(tmp_path / "r", made.poses(4))
    (place / "images" / "left" / "0001.jpg").unlink()
    recording = open_recording(place)
    assert len(recording) == 3
    assert "1 of 4 frames whose pictures are missing left out: left/0001.jpg" in recording.notes


def test_depth_of_tum_that_no_picture_is_near(tmp_path):
    folder = made.tum(tmp_path, made.poses(4))
    lines = (folder / "rgb.txt").read_text().splitlines()
    (folder / "rgb.txt").write_text("\n".join(lines[:1] + lines[2:]))
    pairs = read_pairs(folder)
    assert [pair.color is None for pair in pairs] == [False, True, False, False]
    assert [pair.color_s for pair in pairs] == sorted(pair.color_s for pair in pairs)
    recording = open_recording(folder)
    assert np.allclose(recording.cam2world(1), made.poses(4)[1], atol=2e-6)
    assert recording.frame(1).name == pairs[1].depth.stem


def boxes() -> Pictures:
    """Twelve frames within a box; those of one half of the turn have no picture."""
    frames = box_from_within()
    return Pictures([one if k < 6 else replace(one, color=None) for k, one in enumerate(frames)])


def test_the_surface_is_of_all_frames_and_its_colours_of_pictures():
    some, half = fuse(boxes(), COARSE), fuse(Pictures(list(box_from_within()[:6])), COARSE)
    assert len(some.mesh.coord) > 1.4 * len(half.mesh.coord)
    assert some.mesh.notes[0].startswith(
        "12 of 12 frames fused at 6 cm, 6 of them with a picture, depth"
    )
    assert (some.mesh.color[~some.colored] == 128).all()
    bare = int((~some.colored).sum())
    assert 0.2 < bare / len(some.colored) < 0.7
    assert some.mesh.notes[1].startswith(f"{bare:,} of {len(some.colored):,} vertices (")
    assert some.mesh.notes[1].endswith("%) are on no picture: they are grey")
    wanted = (some.mesh.coord + 2) / 4 * 255
    assert np.percentile(np.abs(some.mesh.color - wanted)[some.colored], 99) < 6
    assert half.colored.all() and len(half.mesh.notes) == 1


def test_a_budget_goes_to_frames_with_a_picture_first():
    def used(most: int) -> str:
        return fuse(boxes(), COARSE, most_frames=most).mesh.notes[0]

    assert used(4).startswith("4 of 12 frames fused at 6 cm, depth")  # as all four have one
    assert used(8).startswith("8 of 12 frames fused at 6 cm, 6 of them with a picture")


def test_views_are_chosen_among_frames_with_a_picture():
    points = np.random.default_rng(0).uniform(-1, 1, (2000, 3)) * HALF
    points[:, 0] = HALF[0]
    choice = choose_frames(boxes(), points, 12, most_candidates=6)
    assert sorted(choice.indices) == list(range(6))
    assert choice.notes[0].startswith("6 of 6 frames with a picture are the views")


def test_a_scan_tells_it_and_so_does_its_scene(tmp_path: Path):
    place = phones.scannerapp(tmp_path / "r", made.poses(6), every=3)
    scan = make_scan(place, ScanOptions(up="z", voxel_size_m=0.06, views=4))
    assert scan.scene.view_names == ["000000", "000003"]
    assert scan.lines[0] == "6 frames with pose in layout scannerapp, 2 of them with a picture"
    assert any(line.startswith("4 of 6 frames have no picture: their depth is") for line in scan.lines)
    grey = next(line for line in scan.lines if line.endswith("are on no picture: they are grey"))
    assert grey in scan.scene.notes
