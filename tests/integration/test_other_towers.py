"""Runs with other towers than CLIP's: what serves the one serves the others."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bifusion.config.run import Config
from bifusion.inference.evaluate import evaluate_run
from bifusion.models.build import build_model
from bifusion.models.parts import part_of_module
from bifusion.models.towers.timm_cnn import TimmCnnConfig
from bifusion.models.towers.timm_vit import TimmVitConfig
from bifusion.models.towers.tower import TowerConfig
from bifusion.recipes.bifusion import three_stages
from bifusion.runs.trained_model import load_model
from bifusion.training.train import train
from module_faults import named_origin
from step_factory import tiny_step
from tiny_runs import make_tiny_data, tiny_config, without_ramps

CASES = {
    "timm_vit": (TimmVitConfig("test_vit"), 6, "tower.net.blocks.5.mlp.fc1"),
    "timm_cnn": (TimmCnnConfig("test_efficientnet"), 4, "tower.net.conv_stem.depth"),
}
"""Tower, its blocks, and a module to break. The smallest networks that timm has."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=1, val=1)


def configured(tower: TowerConfig, blocks: int, data: Path) -> Config:
    config = tiny_config("bifusion_small", data)
    config.model = config.model.with_tower(tower)
    config.stages = without_ramps(three_stages(blocks))
    return config


@pytest.mark.parametrize("kind", CASES)
def test_it_is_isolated_kept_trained_watched_and_loaded(kind: str, data: Path, tmp_path: Path) -> None:
    tower, blocks, _ = CASES[kind]
    config, run = configured(tower, blocks, data), tmp_path / "run"
    before = build_model(config.model, config.seed, config.labels).state_dict()
    assert train(config, run).state == "completed"
    _, alignment, last = (json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines())
    assert not alignment["grad_norm"]["tower"] and alignment["ranges"]["f2d_in"]["rms"] > 0
    assert len(list((tmp_path / ".tower-cache").glob("*/*.safetensors"))) >= 2, "kept while frozen"
    assert last["grad_norm"]["tower"] > 0 and last["grad_norm"]["conv1"] > 0
    rates = last["lr"]
    first, end = rates["tower.block0"], rates[f"tower.block{blocks - 1}"]
    assert first == 0 < rates["tower.conv1_depth"] < end, "only the end and depth adapt, depth slowest"
    after = load_file(run / "checkpoints" / "last" / "model.safetensors")
    moved = {
        name for name in before if name.startswith("tower.") and not after[name].equal(before[name])
    }
    assert any(name.endswith("depth.weight") for name in moved)
    assert any(f"blocks.{blocks - 1}." in name for name in moved)
    assert not any("rgb" in name or "blocks.0." in name or "running" in name for name in moved)

    assert 0 <= evaluate_run(run)["full"]["miou"] <= 1
    described = json.loads((run / "config.json").read_text())
    assert f"timm image tower {tower.architecture}" in described["tower"]  # type: ignore[attr-defined]
    assert described["feature_dims"] == load_model(run)[0].feature_dims()


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_fault_in_it_is_named(kind: str, direction, data: Path) -> None:
    tower, blocks, module = CASES[kind]
    step = tiny_step(configured(tower, blocks, data), scenes=(0,))
    found = named_origin(step, module, direction, math.nan)
    assert found[:2] == (module, direction) and part_of_module(module).path == "2d"
