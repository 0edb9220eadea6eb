"""Which files of a folder are taken for posed images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bifusion.datasets.recordings.intrinsics import Calibration
from bifusion.datasets.scannet.posed_images import find_posed_images
from bifusion.errors import InputError


def test_intrinsics_that_are_given_are_of_both_cameras(tmp_path: Path) -> None:
    """The fused geometry comes of depth: colour's alone would leave it as it was."""
    for name in ("color", "depth", "pose", "intrinsic"):
        (tmp_path / name).mkdir()
    np.savetxt(tmp_path / "pose" / "0.txt", np.eye(4))
    for camera in ("color", "depth"):
        np.savetxt(tmp_path / "intrinsic" / f"intrinsic_{camera}.txt", np.diag([300, 300, 1.0]))
    own = find_posed_images(tmp_path).depth_camera()
    assert own is not None and own.K[0, 0] == 300
    given = find_posed_images(tmp_path, Calibration(np.diag([525, 525, 1.0])))
    assert given.color_K[0, 0] == 525 and given.depth_camera() is None


def test_depth_in_another_format_is_not_passed_over(tmp_path: Path) -> None:
    """Rendered depth would stand where the sensor's was wanted."""
    for folder in ("color", "depth", "pose", "intrinsic"):
        (tmp_path / folder).mkdir()
    np.savetxt(tmp_path / "pose" / "0.txt", np.eye(4))
    np.savetxt(tmp_path / "intrinsic" / "intrinsic_color.txt", np.eye(3))
    assert find_posed_images(tmp_path).frames[0].depth is None
    np.savez(tmp_path / "depth" / "0.npz", np.ones((2, 2)))
    with pytest.raises(
        InputError, match=r"depth: holds 0\.npz, which are no depth images; expected .png"
    ):
        find_posed_images(tmp_path)


def test_what_is_there_is_told_where_no_image_is_found(tmp_path: Path) -> None:
    for name in ("rgb", "depth", "cams"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds no posed image; .*; found cams/, depth/, rgb/"):
        find_posed_images(tmp_path)


@pytest.mark.parametrize("kind", ["color/{}.jpg", "depth/{}.png", "pose/{}.txt"])
def test_two_files_of_one_number_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    for folder in ("color", "depth", "pose", "intrinsic"):
        (tmp_path / folder).mkdir()
    for camera in ("color", "depth"):
        np.savetxt(tmp_path / "intrinsic" / f"intrinsic_{camera}.txt", np.diag([300, 300, 1.0]))
    np.savetxt(tmp_path / "pose" / "1.txt", np.eye(4))
    for name in ("1", "01"):
        np.savetxt(tmp_path / kind.format(name), np.eye(4))
    with pytest.raises(InputError, match=r"01\.[a-z]+ and 1\.[a-z]+ have the same number, 1"):
        find_posed_images(tmp_path)
