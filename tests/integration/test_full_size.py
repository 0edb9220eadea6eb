"""The full-size recipes on a real scan at 2 cm: three training steps and an evaluation each."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file

import needs
from bifusion.config.run import Config
from bifusion.data.batching import collate
from bifusion.data.dataset import SceneDataset
from bifusion.datasets.scannet.prepare import prepare_scannet
from bifusion.datasets.scannet.views import ViewOptions
from bifusion.inference.evaluate import evaluate_run
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.build import build_model
from bifusion.recipes import get_recipe
from bifusion.training.train import train
from tiny_runs import without_ramps

REAL = needs.folder("BIFUSION_REAL_DATA", "data") / "scannet"
SCENE = "scene0000_00"
VOXELS = 80_080

pytestmark = [pytest.mark.slow, pytest.mark.real_data]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The real scan with its two views as training and as validation split."""
    if not (REAL / "scans" / SCENE).is_dir():
        needs.lacking("real_data", REAL)
    root = tmp_path_factory.mktemp("scannet")
    prepare_scannet(
        REAL / "scans",
        root,
        labels=REAL / "meta" / "scannetv2-labels.combined.tsv",
        posed_images=REAL / "posed_images",
        view_options=ViewOptions(long_side=640),
    )
    (root / "val").symlink_to(root / "train")
    return root


def three_steps(recipe: str, data: Path) -> Config:
    """The recipe as it is, but for three epochs of one scene, a tower without its weights, no ramps."""
    config = get_recipe(recipe)
    config.data.root = data
    config.trainer.epochs = 3
    config.trainer.batch_size = 1
    config.trainer.workers = 0
    config.trainer.accelerator = "cpu"
    if isinstance(config.model, BiFusionConfig):
        if config.model.tower is not None:  # weights cannot be downloaded everywhere
            config.model = config.model.with_tower(config.model.tower.with_weights(None))
        config.stages = without_ramps(config.stages)
    return config


@pytest.mark.parametrize(
    "recipe",
    [
        "oneformer3d_scannet20",
        "oneformer3d_scannet200",
        "mask3d_scannet20",
        "bifusion_scannet20",
        "bifusion_scannet200",
        "bifusion_scannet20_dinov2",
        "bifusion_scannet200_dinov2",
    ],
)
def test_trains_and_evaluates(recipe: str, data: Path, tmp_path: Path) -> None:
    config = three_steps(recipe, data)
    before = {
        name: tensor.clone()
        for name, tensor in build_model(config.model, config.seed, config.labels).state_dict().items()
    }
    status = train(config, tmp_path / "run")
    assert (status.state, status.steps, status.raw_nonfinite) == ("completed", 3, 0)

    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    for step in steps:
        assert all(math.isfinite(value) for value in step["losses"].values())
        assert step["grad_norm"]["total"] > 0
    after = load_file(tmp_path / "run" / "checkpoints" / "last" / "model.safetensors")
    moved = [name for name in before if not before[name].equal(after[name])]
    assert any(name.startswith("unet.") for name in moved)
    assert any(name.startswith("decoder.") for name in moved)

    evaluation = evaluate_run(tmp_path / "run", device="cpu")
    assert 0 <= evaluation["full"]["agnostic_ap25"] <= 1
    if config.model_kind == "mask3d":
        assert evaluation["full"]["miou"] is None
    else:
        assert 0 <= evaluation["full"]["miou"] <= 1
    if isinstance(config.model, BiFusionConfig):
        assert len({step["stage"] for step in steps}) == 3
        assert 0 < evaluation["full"]["seen_share"] < 1
        assert evaluation["views_withheld"] is not None
        if recipe.endswith("dinov2"):
            assert not any(name.startswith("tower.") for name in moved)
        else:
            assert any(name.startswith("tower.blocks.5") for name in moved)


def test_scan_has_as_many_voxels_as_expected(data: Path) -> None:
    config = three_steps("oneformer3d_scannet200", data).data
    dataset = SceneDataset(config, "val", seed=0, training=False)
    assert dataset.names == [SCENE]
    assert len(collate([dataset.sample(0, 0)]).voxel_coords) == VOXELS
