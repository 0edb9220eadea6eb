"""COLMAP models as other programs write them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import phone_recordings as phones
import recording_factory as made
from bifusion.datasets.recordings.colmap_model import read_model
from bifusion.errors import InputError


@pytest.mark.parametrize("points", [None, "", "3.5 4.5 -1 7 8.25 12 1 2 3 9 9 4"])
def test_no_picture_is_lost_where_lines_of_points_are(tmp_path: Path, points: str | None) -> None:
    """Where programs leave the empty ones out, every other picture had been taken for points."""
    walk = made.poses(4)
    model = phones.colmap_text(tmp_path / "r", walk) / "sparse" / "0"
    pictures = [line for line in (model / "images.txt").read_text().splitlines() if "left/" in line]
    lines = [text for line in pictures for text in ([line] if points is None else [line, points])]
    (model / "images.txt").write_text("# IMAGE_ID\n" + "\n".join(lines) + "\n")
    _, posed = read_model(model)
    assert [one.name for one in posed] == [f"left/{k:04d}.jpg" for k in range(4)]
    found = np.stack([np.linalg.inv(one.world2cam()) for one in posed])
    assert np.allclose(found, walk, atol=1e-6)


def test_a_lens_of_a_later_colmap_is_no_damage(tmp_path: Path) -> None:
    cameras = phones.colmap(tmp_path / "r", made.poses(2)) / "sparse" / "0" / "cameras.bin"
    whole = cameras.read_bytes()
    cameras.write_bytes(whole[:12] + struct.pack("<i", 12) + whole[16:])
    with pytest.raises(InputError, match="camera 1: its lens is number 12, of a later .*undistort"):
        read_model(cameras.parent)
