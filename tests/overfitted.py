"""A small OneFormer3D that knows one real scan by heart: as it lies, decimated, and recorded anew.

All three are among what it learns, as `make_scan` brings them upright. So what is shown with it is that
frames, units, order and sampling are kept on the way in and back, not how well anything is recognised.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

import bifusion
import room_meshes as rooms
from bifusion.config.run import Config
from bifusion.config.stages import Stage, StagePlan, at_once
from bifusion.data.transforms import AugmentConfig
from bifusion.datasets.scan.made import MadeScan
from bifusion.datasets.scan.make import make_scan
from bifusion.datasets.scan.options import ScanOptions
from bifusion.datasets.scannet.scan import read_label_table, read_scan
from bifusion.models.oneformer3d import OneFormer3DConfig
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.unet import UNetConfig
from bifusion.recipes import get_recipe
from bifusion.runs.run_folder import RunFolder
from bifusion.training.train import train
from decimation import decimated

SCENE = "scene0000_00"
RECORDING = f"rgbd_{SCENE}"
KEPT = 1 / 3
"""Share of the vertices that the decimated mesh has."""
BEYOND_M = 0.1
"""What lies farther from the annotated scan has no class."""
EPOCHS = 100


@dataclass(frozen=True)
class Labelled:
    """A scan of ScanNet as it lies, with its annotation; and two others of the same room."""

    path: Path
    segment: np.ndarray
    """(N,) class of each vertex in scannet20, −1 none."""
    decimated: Path
    """A mesh with a third of the vertices, in the same frame."""
    recorded: Path
    """RGB-D frames, in the same frame."""


def labelled_scan(scannet: Path, root: Path) -> Labelled:
    """The scan of SCENE in a folder laid out as shared/data/scannet; decimated it goes to `root`."""
    table = read_label_table(scannet / "meta" / "scannetv2-labels.combined.tsv")
    scan = read_scan(scannet / "scans" / SCENE, table)
    coarse = root / "decimated.ply"
    if not coarse.exists():
        rooms.write_ply(coarse, decimated(make_scan(scan.mesh).mesh, KEPT))
    return Labelled(scan.mesh, scan.segments["scannet20"], coarse, scannet / RECORDING)


def overfit(labelled: Labelled, root: Path) -> Path:
    """Trains on the three; returns the run folder, below `root`, as it is where one has ended there."""
    run = root / "run"
    ended = RunFolder(run).read_status()
    if ended is None or ended.state != "completed":
        write_scenes(labelled, root / "data")
        status = train(config_for(root / "data"), run)
        assert status.state == "completed"
    return run


def write_scenes(labelled: Labelled, data: Path) -> None:
    """The scene folders that are learned; classes come from the nearest annotated vertex in the user's
    frame, and a superpoint has the commonest of its vertices', as nothing finer can be said of it."""
    scan = make_scan(labelled.path)
    tree = KDTree(scan.mesh.coord)
    alone = ScanOptions(views=0)
    others = {name: make_scan(getattr(labelled, name), alone) for name in ("decimated", "recorded")}
    for name, made in {"scan": scan, **others}.items():
        away_m, nearest = tree.query(made.coord)
        segment = np.where(away_m > BEYOND_M, -1, labelled.segment[nearest])
        whole = commonest(segment, made.scene.superpoint)
        for split in ("train", "val") if name == "scan" else ("train",):
            _write_scene(data / split / name, made, whole)


def commonest(segment: np.ndarray, superpoint: np.ndarray) -> np.ndarray:
    """(N,) of each point, the commonest class ≥ 0 of those in its superpoint; −1 where none has one."""
    known = segment >= 0
    size = int(segment.max()) + 1
    key = superpoint[known].astype(np.int64) * size + segment[known]
    counts = np.bincount(key, minlength=(int(superpoint.max()) + 1) * size).reshape(-1, size)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)[superpoint]


def _write_scene(folder: Path, made: MadeScan, segment: np.ndarray) -> None:
    scene = made.scene
    bifusion.write_scene(
        folder, scene.coord, scene.color, normal=scene.normal, superpoint=scene.superpoint,
        segment=segment, labels="scannet20",
    )  # fmt: skip


def config_for(data: Path) -> Config:
    """Classes alone are learned, with colours as the only input: places would tell too much."""
    config = get_recipe("oneformer3d_small")
    config.model = OneFormer3DConfig(
        unet=UNetConfig(kind="residual", in_channels=3, planes=(16, 32, 48, 64), blocks=(1,) * 4),
        decoder=DecoderConfig(num_layers=1, dim=64, heads=4, ffn_dim=128),
    )
    stage = Stage("by heart", 1.0, trains={"*": at_once(1.0)}, weights={"semantic": at_once(1.0)})
    config.stages = StagePlan((stage,))
    augment = AugmentConfig(
        flip_probability=0.0,
        rotation_rad=0.01,
        tilt_rad=0.005,
        scale=(0.995, 1.005),
        translation_std_m=0.0,
        elastic_probability=0.0,
        color_gain_std=0.02,
        color_offset_std=0.02,
    )
    config.data = dataclasses.replace(config.data, root=data, use_xyz=False, augment=augment)
    config.trainer = dataclasses.replace(
        config.trainer,
        epochs=EPOCHS,
        eval_every=EPOCHS,
        evaluation_views=0,
        save_every=0,
        save_epochs=EPOCHS,
        accelerator="cpu",
    )
    config.optim = dataclasses.replace(config.optim, lr=4e-3, warmup_steps=20)
    return config
