"""Poses in the spellings that programs write, and what is told of those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import recording_factory as made
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.text_files import read_pose
from bifusion.datasets.scannet.posed_images import find_posed_images
from bifusion.errors import InputError

MIRROR = np.diag([-1.0, 1, 1, 1])


def rows(pose: np.ndarray, between: str = " ") -> str:
    return "\n".join(between.join(map(str, row.tolist())) for row in pose)


SPELLINGS: dict[str, Callable[[np.ndarray], str]] = {
    "three rows": lambda pose: rows(pose[:3]),
    "three rows in a line": lambda pose: " ".join(map(str, pose[:3].ravel().tolist())),
    "four rows in a line": lambda pose: " ".join(map(str, pose.ravel().tolist())),
    "numpy's text": lambda pose: np.array2string(pose, precision=9),
    "Python's list": lambda pose: str(pose.tolist()),
    "a comment before": lambda pose: "# camera to world\n" + rows(pose),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("layout", ["scannet", "7scenes"])
def test_pose_files_of_every_spelling(layout: str, spelling: str, tmp_path: Path) -> None:
    walk = made.poses(3)
    folder = made.WRITERS[layout](tmp_path / "r", walk)
    files = sorted(folder.glob("pose/*.txt" if layout == "scannet" else "*.pose.txt"))
    for file, pose in zip(files, walk, strict=True):
        file.write_text(SPELLINGS[spelling](pose))
    recording = open_recording(folder)
    assert [np.allclose(recording.cam2world(k), walk[k], atol=1e-6) for k in range(3)] == [True] * 3
    if layout == "scannet":  # as prepare scannet reads them
        assert np.allclose(read_pose(find_posed_images(folder).frames[1].pose), walk[1], atol=1e-6)


BENT: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "transposed": (lambda pose: pose.T, "stands column by column: transpose it"),
    "mirrored camera": (lambda pose: pose @ MIRROR, "its world or its camera is left-handed"),
    "mirrored world": (lambda pose: MIRROR @ pose, "its world or its camera is left-handed"),
    "scaled": (lambda pose: pose @ np.diag([2.0, 2, 2, 1]), "it scales: divide its first three columns"),
    "rounded": (lambda pose: np.round(pose, 2), "its numbers have too few digits"),
    "skewed": (lambda pose: pose @ np.diag([2.0, 1, 1, 1]), "that is not rigid left out: 0, 10, 20"),
}


@pytest.mark.parametrize("kind", BENT)
def test_poses_that_are_not_rigid_are_not_told_as_lost_tracking(kind: str, tmp_path: Path) -> None:
    change, words = BENT[kind]
    folder = made.scannet(tmp_path, made.poses(4))
    for file in (folder / "pose").iterdir():
        np.savetxt(file, change(np.loadtxt(file)), fmt="%.9f")
    with pytest.raises(InputError, match=f"no frame with pictures and pose.*{words}") as told:
        open_recording(folder)
    assert "tracking lost" not in str(told.value)
