"""A scene folder and a checkpoint in, PLY files and JSON out."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from plyfile import PlyData

from bifusion.config.run import Config, TrainerConfig
from bifusion.config.stages import Stage, StagePlan, at_once
from bifusion.data.dataset import DataConfig
from bifusion.inference.export import INSTANCES_SCHEMA
from bifusion.inference.predict import dataset_of, predict_scene, trained_control
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.build import build_model
from bifusion.models.fusion import FusionConfig
from bifusion.models.oneformer3d import OneFormer3DConfig
from bifusion.models.postprocess import PostprocessConfig
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.unet import UNetConfig
from bifusion.runs.checkpoint import save_checkpoint
from bifusion.types import InputError
from scene_factory import make_tiny_scene

UNET = UNetConfig(kind="residual", in_channels=6, planes=(8, 16))
DECODER = DecoderConfig(num_layers=1, dim=16, heads=2, ffn_dim=16)
PLAN = StagePlan(
    (
        Stage("first", 1, trains={}, weights={}, run_2d=False),
        Stage("last", 1, trains={}, weights={}, gate_scale=at_once(1.0), fixed_alpha=0.25),
    )
)


def baseline() -> Config:
    return tiny_config(OneFormer3DConfig(unet=UNET, decoder=DECODER), max_views=0)


def bifusion() -> Config:
    tower = ClipConfig(architecture="small", blocks=1, width=16, layers=1, heads=2, image_size=64)
    fusion = FusionConfig(dim=16, hidden=16, film_hidden=8, gate_hidden=8, alignment_hidden=8)
    model = BiFusionConfig(unet=UNET, decoder=DECODER, tower=tower, fusion=fusion)
    return tiny_config(model, max_views=2)


def tiny_config(model: OneFormer3DConfig | BiFusionConfig, max_views: int) -> Config:
    return Config(
        name="tiny",
        recipe="tiny",
        arm="baseline",
        model=model,
        stages=PLAN,
        data=DataConfig(voxel_size_m=0.1, max_views=max_views, image_size=64),
        postprocess=PostprocessConfig(min_points=5),
        trainer=TrainerConfig(epochs=4),
    )


def save_run(root: Path, config: Config, epoch: float = 4.0) -> Path:
    """A run folder with nothing but an untrained last checkpoint."""
    model = build_model(config.model, config.seed, config.labels)
    save_checkpoint(root / "checkpoints", model, config, {"time": epoch}, step=1, links=["last"])
    return root


@pytest.mark.parametrize("config", [baseline(), bifusion()], ids=["oneformer3d", "bifusion"])
@pytest.mark.parametrize(("annotated", "num_views"), [(True, 2), (False, 0)], ids=["full", "bare"])
def test_predicts_a_scene_folder(tmp_path, config, annotated, num_views) -> None:
    scene = make_tiny_scene(tmp_path / "data" / "room", annotated=annotated, num_views=num_views)
    paths = predict_scene(save_run(tmp_path / "run", config), scene, tmp_path / "out", device="cpu")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in paths)
    coord = np.load(scene / "coord.npy")
    for path in paths[:2]:
        vertices = PlyData.read(str(path))["vertex"]
        assert np.array_equal(np.column_stack([vertices[axis] for axis in "xyz"]), coord)
    document = json.loads(paths[2].read_text())
    jsonschema.validate(document, INSTANCES_SCHEMA)
    assert (document["scene"], document["num_points"]) == ("room", len(coord))


def test_annotation_does_not_change_the_prediction(tmp_path) -> None:
    run = save_run(tmp_path / "run", bifusion())
    written = []
    for annotated in (True, False):
        scene = make_tiny_scene(tmp_path / str(annotated) / "room", annotated=annotated)
        paths = predict_scene(run, scene, tmp_path / f"out-{annotated}", device="cpu")
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def test_scene_is_found_among_others_and_by_a_relative_path(tmp_path, monkeypatch) -> None:
    for name in ("a", "b", "c"):
        make_tiny_scene(tmp_path / name, num_views=0)
    dataset, index = dataset_of(tmp_path / "b", baseline().data)
    assert dataset.names[index] == "b" and dataset.sample(index, 0).name == "b"
    monkeypatch.chdir(tmp_path / "c")
    paths = predict_scene(
        save_run(tmp_path / "run", baseline()), Path("."), tmp_path / "out", device="cpu"
    )
    assert json.loads(paths[2].read_text())["scene"] == "c"


def test_fusion_acts_as_when_the_checkpoint_was_saved(tmp_path) -> None:
    config = bifusion()
    early = save_run(tmp_path / "early", config, epoch=2.0) / "checkpoints" / "last"
    assert trained_control(early, config).run_2d is False
    late = save_run(tmp_path / "late", config, epoch=4.0) / "checkpoints" / "last"
    assert trained_control(late, config).fixed_alpha == 0.25
    (late / "training.pt").unlink()
    assert trained_control(late, config).fixed_alpha == 0.25


def test_missing_scene_or_checkpoint_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        predict_scene(tmp_path, tmp_path / "room", tmp_path / "out")
    run = save_run(tmp_path / "run", baseline())
    with pytest.raises(InputError, match="room"):
        predict_scene(run, tmp_path / "room", tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
