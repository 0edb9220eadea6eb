"""A model that answers with what is no number is told of where its figures would look like others."""

import logging

import pytest
import torch

from bifusion.config.run import config_to_dict
from bifusion.inference.evaluate import evaluate_run
from bifusion.models.build import build_model
from bifusion.runs.checkpoint import save_checkpoint
from bifusion.storage.json_files import write_json
from tiny_runs import make_tiny_data, tiny_config


@pytest.mark.parametrize("value", [torch.nan, None], ids=["nan", "sound"])
def test_an_evaluation_says_that_its_figures_say_nothing(tmp_path, caplog, value):
    """They are those of a model that says "wall" everywhere."""
    data, run = make_tiny_data(tmp_path / "data", train=1, val=2), tmp_path / "run"
    config = tiny_config("oneformer3d_small", data)
    model = build_model(config.model, config.seed, config.labels)
    if value is not None:
        model.get_submodule("decoder.out_sem").weight.data.fill_(value)
    save_checkpoint(run / "checkpoints", model, config, {"time": 3.0}, step=1, links=["last"])
    stages = [{"name": "baseline", "first_epoch": 0, "end_epoch": 3}]
    write_json(run / "config.json", config_to_dict(config) | {"stages": stages})
    with caplog.at_level(logging.WARNING):
        evaluate_run(run, device="cpu")
    told = "answers with NaN or infinity in 2 scenes (roomval0, roomval1): its figures say nothing"
    assert (told in caplog.text) == (value is not None)
