"""What a user has set for the whole process changes nothing here, and stays as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

import bifusion as package
from bifusion.inference.evaluate import evaluate_run
from bifusion.training.train import train
from tiny_runs import make_tiny_data, tiny_config
from untrained_runs import bifusion, save_run


@contextmanager
def set_by_a_user() -> Iterator[None]:
    """Double precision, tensors on another device (one that holds no numbers), no gradients."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.inference_mode():
            yield
            assert torch.get_default_dtype() == torch.float64
            assert torch.get_default_device().type == "meta"
            assert not torch.is_grad_enabled()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_tiny_data(tmp_path_factory.mktemp("data"), train=2, val=1)


def test_a_model_predicts_as_it_does_elsewhere(data, tmp_path):
    run, scene = save_run(tmp_path, bifusion()), data / "val" / "roomval0"
    wanted = package.load(run, device="cpu").predict(scene)
    with set_by_a_user():
        found = package.load(run, device="cpu").predict(scene)
    assert np.array_equal(found.semantic, wanted.semantic)
    assert np.array_equal(found.scores, wanted.scores)


def test_a_run_trains_and_is_evaluated_as_it_is_elsewhere(data, tmp_path):
    config = tiny_config("bifusion_small", data, epochs=3)
    found = []
    for name, setting in (("plain", nullcontext()), ("set", set_by_a_user())):
        with setting:
            train(config, tmp_path / name)
            evaluate_run(tmp_path / name, device="cpu")
        steps = (tmp_path / name / "steps.jsonl").read_text().splitlines()
        evaluation = json.loads((tmp_path / name / "evaluation.json").read_text())
        found.append(([json.loads(step)["losses"] for step in steps], evaluation["full"]))
    assert found[0] == found[1]
