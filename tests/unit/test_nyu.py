"""Frames of NYU Depth V2 as scene folders: a made frame comes out where it was."""

import csv
from pathlib import Path

import numpy as np
import pytest
from laboratory import nyu
from PIL import Image

import needs
from bifusion.data.scene_folder import load_scene
from bifusion.data.view_files import load_view
from bifusion.labels.sets import SCANNET20

REAL_DATA = needs.folder("BIFUSION_REAL_DATA", "data")
WIDTH, HEIGHT, FOCAL = 24, 18, 20.0
SOFA, CEILING = 6, 22
"""Ids of NYU40; ScanNet20 has no ceiling."""


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Two frames: a wall 2 m ahead, a box 1 m ahead before its right half, the camera upright."""
    for kind in ("color", "depth", "label", "instance"):
        (tmp_path / kind).mkdir()
    depth = np.full((HEIGHT, WIDTH), 2000, np.uint16)
    depth[:, WIDTH // 2 :] = 1000
    depth[0, 0] = 0
    label = np.where(depth == 1000, SOFA, CEILING).astype(np.uint8).repeat(2, 0).repeat(2, 1)
    color = np.where(label == SOFA, 200, 50).astype(np.uint8)
    for name in ("0003", "0007"):
        Image.fromarray(np.stack([color] * 3, -1)).save(tmp_path / f"color/{name}.jpg", quality=100)
        Image.fromarray(depth).save(tmp_path / f"depth/{name}.png")
        Image.fromarray(label).save(tmp_path / f"label/{name}.png")
        Image.fromarray((depth == 1000).astype(np.uint8)).save(tmp_path / f"instance/{name}.png")
    for kind, times in (("color", 2), ("depth", 1)):
        K = [[FOCAL * times, 0, WIDTH * times / 2], [0, FOCAL * times, HEIGHT * times / 2], [0, 0, 1]]
        np.savetxt(tmp_path / f"intrinsics_{kind}_{WIDTH * times}x{HEIGHT * times}.txt", K)
    _table(tmp_path / "frames.csv", ["frame", "split"], [[3, "train"], [7, "val"]])
    _table(tmp_path / "up.csv", ["frame", "ux", "uy", "uz"], [[3, 0, -1, 0], [7, 0, -1, 0]])
    return tmp_path


def _table(path: Path, heads: list[str], rows: list[list]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([heads, *rows])


def test_a_frame_becomes_a_scan_of_one_view(frames, monkeypatch):
    out = frames / "scans"
    monkeypatch.setattr("sys.argv", ["nyu", "--frames", str(frames), "--out", str(out), "--train", "1",
                                     "--val", "1"])  # fmt: skip
    assert nyu.main() == 0
    scene = load_scene(out / "train" / "nyu0003", SCANNET20)
    assert scene.segment is not None and scene.instance is not None and scene.normal is not None
    assert len(scene.coord) == WIDTH * HEIGHT - 1  # one pixel has no depth
    sofa = scene.segment == SCANNET20.class_names.index("sofa")
    assert set(scene.segment[~sofa]) == {-1}
    assert set(scene.instance[sofa]) == {0} and set(scene.instance[~sofa]) == {-1}
    # z up; what is ahead of the camera lies 1 m and 2 m away, and its surface looks back at it
    towards = np.round(scene.coord[:, 1], 4)
    assert set(towards[sofa]) == {1.0} and set(towards[~sofa]) == {2.0}
    assert np.allclose(scene.normal, [0, -1, 0], atol=1e-5)
    assert scene.coord[0, 2] > scene.coord[-1, 2]
    assert not set(scene.superpoint[sofa]) & set(scene.superpoint[~sofa])
    view = load_view(out / "train" / "nyu0003", "0000")
    camera = (scene.coord - view.depth_cam2world[:3, 3]) @ view.depth_cam2world[:3, :3]
    pixel = camera @ view.depth_K.T
    u, v = np.round(pixel[:, :2] / pixel[:, 2:]).astype(int).T
    assert np.allclose(view.depth_m[v, u], camera[:, 2], atol=1e-3)


def test_pixels_of_no_surface_are_left_out():
    depth_m = np.full((4, 4), 2.0, np.float32)
    depth_m[1, 2] = 1.0
    assert nyu.on_surfaces(depth_m)[1, 2] == 0
    assert np.count_nonzero(nyu.on_surfaces(depth_m)) == 15


@pytest.mark.real_data
def test_a_real_frame_has_its_labels():
    classes = nyu.to_classes(np.asarray(Image.open(REAL_DATA / "nyuv2" / "label" / "0000.png")))
    assert 0 in classes and 1 in classes  # wall and floor
