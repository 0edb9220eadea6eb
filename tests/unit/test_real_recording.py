"""A real recording from its files to an upright mesh with views."""

import numpy as np
import pytest
import torch

import needs
from bifusion.datasets.fusion.choice import SPACING_M, choose_frames, places_seen, thinned
from bifusion.datasets.fusion.fuse import evenly, fuse
from bifusion.datasets.orientation.facing import mesh_facing
from bifusion.datasets.orientation.orient import orient
from bifusion.datasets.recordings.open import open_recording
from bifusion.errors import InputError

KITCHEN = needs.folder("BIFUSION_REAL_DATA", "data") / "rgbd_redkitchen"
VIEWS = 6


@pytest.mark.real_data
def test_a_kitchen_seen_from_one_side_is_fused_turned_by_its_cameras_and_gets_views() -> None:
    if not KITCHEN.is_dir():
        needs.lacking("real_data", KITCHEN)
    recording = open_recording(KITCHEN)
    surface = fuse(recording)
    mesh = surface.mesh
    assert 70_000 < len(mesh.coord) < 90_000  # Open3D's: 85,740
    facing = mesh_facing(mesh.coord, mesh.faces)
    with pytest.raises(InputError, match="seen from one side"):
        orient(facing)
    poses = np.stack([recording.cam2world(index) for index in range(len(recording))])
    found = orient(facing, poses)
    assert "its cameras" in found.how
    tops = poses[:, :3, 1] @ found.rotation.T
    assert (tops[:, 2] < -0.5).all()  # every camera's y axis points down

    choice = choose_frames(recording, mesh.coord, VIEWS)
    places = torch.from_numpy(thinned(mesh.coord, SPACING_M)).float()
    every_nth = [places_seen(recording.frame(index), places) for index in evenly(len(recording), VIEWS)]
    assert len(choice.indices) == VIEWS
    assert choice.coverage >= float(np.stack(every_nth).any(axis=0).mean())
