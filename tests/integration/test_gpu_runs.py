"""Tiny runs on a CUDA device: every recipe and precision, repeated to the bit, resumed, as on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bifusion.config.run import Config
from bifusion.inference.evaluate import evaluate_run
from bifusion.inference.segmenter import Segmenter
from bifusion.training.train import train
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d

RECIPES = ("oneformer3d_small", "mask3d_small", "bifusion_small", "bifusion_small_naive")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_tiny_data(tmp_path_factory.mktemp("rooms"))


def configured(recipe: str, data: Path, precision: str = "32-true", device: str = "cuda") -> Config:
    config = tiny_mask3d(data) if recipe == "mask3d_small" else tiny_config(recipe, data)
    config.trainer.accelerator = device  # pyright: ignore[reportAttributeAccessIssue]
    config.trainer.precision = precision  # pyright: ignore[reportAttributeAccessIssue]
    return config


def losses(run: Path) -> list[dict[str, float]]:
    """The loss terms of every step."""
    return [json.loads(line)["losses"] for line in (run / "steps.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_trains_twice_alike_evaluates_and_predicts(recipe, precision, data, tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        status = train(configured(recipe, data, precision), run)
        assert (status.state, status.raw_nonfinite) == ("completed", 0)
    assert losses(runs[0]) == losses(runs[1])
    first, second = map(weights, runs)
    assert [name for name in first if not first[name].equal(second[name])] == []
    assert 0 <= evaluate_run(runs[0])["full"]["ap25"] <= 1
    paths = Segmenter(runs[0]).predict(data / "val" / "roomval0").write(tmp_path / "prediction")
    assert all(path.stat().st_size > 0 for path in paths)


@pytest.mark.parametrize("recipe", RECIPES)
def test_first_step_is_that_of_the_cpu(recipe, data, tmp_path):
    for device in ("cpu", "cuda"):
        train(configured(recipe, data, device=device), tmp_path / device)
    assert losses(tmp_path / "cuda")[0] == pytest.approx(losses(tmp_path / "cpu")[0], rel=1e-4, abs=1e-6)


def test_tf32_is_used_where_it_is_asked_for(data, tmp_path):
    for matmul in ("ieee", "tf32"):
        config = configured("bifusion_small", data)
        config.trainer.matmul = matmul  # pyright: ignore[reportAttributeAccessIssue]
        train(config, tmp_path / matmul)
    ieee, tf32 = losses(tmp_path / "ieee")[0], losses(tmp_path / "tf32")[0]
    assert tf32 != ieee and tf32 == pytest.approx(ieee, rel=2e-2, abs=1e-3)


def test_resumes_to_the_bit(data, tmp_path):
    train(configured("bifusion_small", data), tmp_path / "whole")

    def stop_in_the_second(record: dict) -> None:
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(configured("bifusion_small", data), tmp_path / "cut", on_epoch=stop_in_the_second)
    assert len(losses(tmp_path / "cut")) < len(losses(tmp_path / "whole"))
    train(configured("bifusion_small", data), tmp_path / "cut", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert [name for name in whole if not whole[name].equal(resumed[name])] == []
