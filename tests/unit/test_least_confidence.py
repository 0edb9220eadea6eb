"""Which depth is used of a sensor that says how sure it is: low, medium, high."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import phone_recordings as phones
import recording_factory as made
import room_meshes as rooms
from bifusion.datasets.fusion.volume import FusionConfig, Volume
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.scan.make import make_scan
from bifusion.datasets.scan.options import ScanOptions
from bifusion.datasets.scan.recording_scan import scan_recording
from bifusion.datasets.scan.telling import Telling
from bifusion.errors import InputError

LOW, MEDIUM, HIGH = (25, 25), (45, 45), (60, 60)
"""Pixels of the made-up recordings with depth of such confidence."""


def options(least: int | None) -> ScanOptions:
    return ScanOptions(up="z", least_confidence=least, views=1, voxel_size_m=0.1)


@pytest.mark.parametrize(
    ("least", "used", "said"),
    [
        (None, (False, True, True), None),
        (0, (True, True, True), "all depth is used, as asked"),
        (1, (False, True, True), "depth of medium confidence is used and of higher, as asked"),
        (2, (False, False, True), "depth of high confidence is used, as asked"),
    ],
)
def test_depth_that_is_less_sure_is_not_used(
    least: int | None, used: tuple[bool, ...], said: str | None, tmp_path: Path
) -> None:
    folder = phones.polycam(tmp_path / "r", made.poses(3))
    telling = Telling()
    scan = scan_recording(folder, options(least), telling)
    (view,) = (scan.scene.views[name] for name in scan.scene.view_names)
    assert tuple(bool(view.depth_m[pixel] > 0) for pixel in (LOW, MEDIUM, HIGH)) == used
    assert not view.depth_m[0].any()  # the rim that undistortion leaves black, whatever is asked for
    assert [line for line in telling.lines if line.endswith("as asked")] == ([said] if said else [])


def test_unsure_depth_that_is_asked_for_is_fused(tmp_path: Path) -> None:
    """Weights are confidences; 0 of them would be no surface."""
    frame = open_recording(phones.polycam(tmp_path / "r", made.poses(2))).frame(0)
    assert frame.confidence is not None
    low = replace(frame, confidence=np.zeros_like(frame.confidence))
    volume = Volume(FusionConfig(voxel_size_m=0.1, least_confidence=0))
    assert volume.add(low) > 0 and volume.weight.max() > 0


def test_frames_without_confidence_are_counted(tmp_path: Path) -> None:
    folder = phones.polycam(tmp_path / "r", made.poses(3))
    next((folder / "keyframes" / "confidence").iterdir()).unlink()
    telling = Telling()
    scan_recording(folder, options(2), telling)
    assert any(line.endswith("1 of 3 frames say nothing of it") for line in telling.lines)


def test_what_has_no_confidence_is_told(tmp_path: Path) -> None:
    folder = made.scannet(tmp_path / "r", made.poses(3))
    with pytest.raises(
        InputError, match="r.*: holds no confidence of its depth.*read as scannet.*leave it"
    ):
        make_scan(folder, options(1))
    mesh = rooms.write_ply(tmp_path / "m.ply", rooms.room_mesh(0.5))
    with pytest.raises(InputError, match="mesh or cloud.*: --least-confidence would do nothing"):
        make_scan(mesh, ScanOptions(least_confidence=1))
    for wrong, words in ((3, "found 3; expected 0"), (0.5, "found 0.5, expected a whole")):
        with pytest.raises(InputError, match=f"least_confidence: {words}"):
            make_scan(folder, replace(ScanOptions(), least_confidence=wrong))
