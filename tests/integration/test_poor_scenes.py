"""Scenes that lack nearly everything train, validate and predict like any other, in every model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bifusion.config.run import Config
from bifusion.data.scene_folder import write_scene
from bifusion.inference.evaluate import evaluate_run
from bifusion.inference.segmenter import Segmenter
from bifusion.labels.sets import SCANNET20
from bifusion.training.train import train
from bifusion.types import Scene, View
from scene_factory import SURFACE_COLORS, make_view, sample_surfaces
from tiny_runs import tiny_config, tiny_mask3d

CHAIR = 4
ROOM_CLASSES = np.array([1, 0, 0, 0, 0, 6, 6, 4, 4])
"""Of the surfaces of scene_factory's room: floor, walls, table, chair."""


def unseeing(view: View) -> View:
    """The view from 50 m above the room: whatever it looks at, its depth map says otherwise."""
    pose = view.color_cam2world.copy()
    pose[2, 3] += 50.0
    return dataclasses.replace(view, color_cam2world=pose, depth_cam2world=pose)


def unmeasured(view: View) -> View:
    return dataclasses.replace(view, depth_m=np.zeros_like(view.depth_m))


def write_poor(
    folder: Path,
    *,
    points: int | None = None,
    extent_m: float | None = None,
    classes: np.ndarray | None = ROOM_CLASSES,
    instances: bool = True,
    superpoints: bool = True,
    grey: bool = False,
    views: Callable[[View], View] | None = lambda view: view,
) -> None:
    """scene_factory's room, coarsely sampled, without what is switched off.

    `points` keeps the first ones, within `extent_m` of each other; `classes` None: not annotated.
    """
    rng = np.random.default_rng(0)
    coord, surface = sample_surfaces(rng, spacing_m=0.2)
    coord, surface = coord[:points], surface[:points]
    if extent_m is not None:
        coord = coord[0] + rng.uniform(0, extent_m, coord.shape)
    segment = None if classes is None else classes[surface]
    instance = np.where(instances & (surface >= 5), (surface - 5) // 2, -1)
    compact = np.unique(surface, return_inverse=True)[1]
    scene = Scene(
        name=folder.name,
        coord=coord.astype(np.float32),
        color=np.full((len(coord), 3), 128, np.uint8) if grey else SURFACE_COLORS[surface],
        superpoint=(compact if superpoints else np.zeros_like(compact)).astype(np.int32),
        instance=None if segment is None else instance.astype(np.int32),
    )
    shown = [] if views is None else [views(make_view(i, rng, (64, 48), (40, 30), 0.0)) for i in (0, 1)]
    segments = {} if segment is None else {SCANNET20: segment}
    write_scene(folder, scene, segments=segments, views=shown, source="test")


POOR: dict[str, dict] = {
    "no_annotation": {"classes": None},
    "no_label": {"classes": np.full(9, -1), "instances": False},
    "no_instance": {"instances": False},
    "one_class": {"classes": np.full(9, CHAIR)},
    "walls_only": {"classes": np.zeros(9, int), "instances": False},
    "one_voxel": {"points": 5, "extent_m": 0.01},
    "one_point": {"points": 1},
    "one_superpoint": {"superpoints": False},
    "one_colour": {"grey": True},
    "no_visible_point": {"views": unseeing},
    "no_measured_depth": {"views": unmeasured},
    "no_views": {"views": None},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """All of them, to train on and to validate on."""
    root = tmp_path_factory.mktemp("poor")
    for split in ("train", "val"):
        for name, changes in POOR.items():
            write_poor(root / split / name, **changes)
    return root


def configure(kind: str, root: Path, batch_size: int) -> Config:
    config = tiny_mask3d(root) if kind == "mask3d" else tiny_config(f"{kind}_small", root)
    config.trainer.batch_size, config.trainer.eval_every = batch_size, 3
    config.data.augment = dataclasses.replace(
        config.data.augment, no_views_probability=0.0, fewer_views_probability=0.0
    )
    return config


@pytest.mark.parametrize("batch_size", [1, len(POOR)], ids=["alone", "together"])
@pytest.mark.parametrize("kind", ["oneformer3d", "bifusion", "mask3d"])
def test_poor_scenes_train_validate_and_predict(data, tmp_path, kind, batch_size):
    """Three epochs are BiFusion's three stages."""
    status = train(configure(kind, data, batch_size), tmp_path / "run")
    assert status.state == "completed" and status.raw_nonfinite == 0
    trained = set()
    for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines():
        step = json.loads(line)
        finite = step["total"] is not None and None not in step["losses"].values()
        assert finite and step["event"] is None, step["scenes"]
        assert step["grad_norm"]["total"] is not None, step["scenes"]
        trained |= set(step["scenes"])
    assert trained == set(POOR)
    figures = evaluate_run(tmp_path / "run")["full"]
    assert math.isnan(figures["ap"])  # no annotated instance here has the benchmark's 100 points
    assert figures["miou"] is None if kind == "mask3d" else math.isfinite(figures["miou"])
    for name in POOR if batch_size == 1 else ():
        written = Segmenter(tmp_path / "run").predict(data / "val" / name).write(tmp_path / name)
        assert all(path.stat().st_size > 0 for path in written)
