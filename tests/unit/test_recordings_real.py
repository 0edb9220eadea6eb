"""Real recordings and lists, as far as they are at hand."""

from pathlib import Path

import numpy as np
import pytest

import needs
from bifusion.datasets.recordings.layouts.tum import read_pairs, read_trajectory
from bifusion.datasets.recordings.open import open_recording
from bifusion.datasets.recordings.text_files import read_pose_lines
from refused_recordings import refused


def real(name: str) -> Path:
    folder = needs.folder("BIFUSION_REAL_DATA", "data") / name
    if not folder.exists():
        needs.lacking("real_data", folder)
    return folder


@pytest.mark.real_data
def test_real_lists(tmp_path):
    pairs = read_pairs(real("recordings/tum_text"))
    times, poses = read_trajectory(real("recordings/tum_text") / "pose_associateq.txt")
    assert len(pairs) == len(times) == 573 and np.isfinite(poses).all()
    assert poses[0, :3, 3].tolist() == [1.3137, 0.8486, 1.5192]
    refused(real("recordings/realsense_tum_noposes"), "pictures without poses make no scan")
    poses = read_pose_lines(real("recordings/replica_traj") / "traj.txt")
    assert len(poses) == 300 and np.abs(poses[:, 2, 0]).max() < 1e-12  # the camera's x axis is level
    lost = "no frame with pictures and pose .*whose pictures are missing left out: 0 .no depth"
    refused(real("recordings/record3d_r3d") / "data.r3d", lost)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "layout", "frames"),
    [
        ("rgbd_redkitchen", "7scenes", 25),
        ("rgbd_open3d5", "open3d", 5),
        ("scannet/rgbd_scene0000_00", "scannet", 25),
        ("scannet/posed_images/scene0000_00", "scannet", 2),
        ("recordings/record3d_exr", "record3d", 15),
    ],
)
def test_real_recordings(name, layout, frames):
    recording = open_recording(real(name))
    assert (recording.layout, len(recording)) == (layout, frames)
    frame = recording.frame(frames - 1)
    assert frame.color is not None and frame.depth_m is not None and (frame.depth_m > 0).mean() > 0.5
