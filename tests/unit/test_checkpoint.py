"""Checkpoints and run folders: nothing half-written, nothing of another model, no NaN in JSON."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bifusion.checkpoint import (
    find_checkpoint,
    load_model,
    load_training_state,
    load_weights,
    save_checkpoint,
)
from bifusion.config import build_model
from bifusion.training.run_folder import RunFolder, write_json
from bifusion.types import InputError
from tiny_runs import tiny_config


@pytest.fixture
def config(tmp_path):
    return tiny_config("bifusion_small", tmp_path)


def save(folder, config, step=1, links=("last",)):
    model = build_model(config)
    save_checkpoint(folder, model, config, {"step": step, "time": 0.0}, step=step, links=links)
    return model


def test_round_trip_in_evaluation_mode(tmp_path, config):
    saved = save(tmp_path / "checkpoints", config)
    model, loaded_config = load_model(tmp_path)
    assert loaded_config == config and not model.training
    assert all(t.equal(model.state_dict()[n]) for n, t in saved.state_dict().items())
    assert load_training_state(find_checkpoint(tmp_path)) == {"step": 1, "time": 0.0}


def test_every_way_to_name_a_checkpoint(tmp_path, config):
    save(tmp_path / "checkpoints", config, links=("last", "best"))
    last = tmp_path / "checkpoints" / "last"
    for path in (tmp_path, last, last / "model.safetensors"):
        assert find_checkpoint(path).resolve() == last.resolve()
    with pytest.raises(InputError, match="no checkpoint here"):
        find_checkpoint(tmp_path / "checkpoints")


def test_only_linked_checkpoints_are_kept(tmp_path, config):
    save(tmp_path, config, step=1, links=("last", "best"))
    save(tmp_path, config, step=2)
    save(tmp_path, config, step=3)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000001", "step-00000003"]
    assert os.readlink(tmp_path / "best") == "step-00000001"
    save(tmp_path, config, step=3)
    assert load_training_state(tmp_path / "last") == {"step": 3, "time": 0.0}


def test_a_crash_while_writing_leaves_the_last_checkpoint(tmp_path, config, monkeypatch):
    save(tmp_path, config, step=1)

    def full_disk(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("bifusion.checkpoint.torch.save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, config, step=2)
    assert load_training_state(tmp_path / "last") == {"step": 1, "time": 0.0}


def test_pretrained_weights_are_not_needed_to_load(tmp_path, config):
    save(tmp_path, config)
    stored = json.loads((tmp_path / "last" / "config.json").read_text())
    stored["model"]["clip"]["pretrained"] = "/nowhere/clip.safetensors"
    write_json(tmp_path / "last" / "config.json", stored)
    load_model(tmp_path / "last")


def test_checkpoint_of_another_model_names_what_matched(tmp_path, config):
    save(tmp_path, config)
    other = build_model(tiny_config("oneformer3d_small", tmp_path))
    with pytest.raises(
        InputError, match=r"another model: \d+ of \d+ tensors match; missing: .*unknown: "
    ):
        load_weights(other, tmp_path / "last")


def test_damaged_weights_are_an_input_error(tmp_path, config):
    save(tmp_path, config)
    path = tmp_path / "last" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="model.safetensors: cannot be read"):
        load_model(tmp_path / "last")


def test_json_has_no_nan(tmp_path):
    value = {
        "nan": math.nan,
        "inf": [math.inf, np.float32("-inf")],
        "array": np.array([1.0, math.nan]),
        "path": Path("a/b"),
        "flag": True,
        "none": None,
    }
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    nulls = {"nan": None, "inf": [None, None], "array": [1.0, None], "none": None}
    assert json.loads(text) == {**nulls, "path": "a/b", "flag": True}


def test_lines_that_a_crash_cut_or_a_resume_repeats_are_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    for step in range(5):
        folder.append(folder.steps, {"step": step, "epoch": 0, "total": math.nan})
    with open(folder.steps, "a") as file:
        file.write('{"step": 5, "tot')
    assert [record["step"] for record in folder.read_lines(folder.steps)] == [0, 1, 2, 3, 4]
    folder.keep_lines_before(folder.steps, "step", 3)
    folder.append(folder.steps, {"step": 3, "epoch": 0})
    assert [record["step"] for record in folder.read_lines(folder.steps)] == [0, 1, 2, 3]
    folder.keep_lines_before(folder.epochs, "epoch", 0)
    assert folder.epochs.read_text() == ""


def test_training_state_is_loaded_without_unpickling_code(tmp_path, config):
    save(tmp_path, config)
    torch.save({"step": Path("x")}, tmp_path / "last" / "training.pt")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        load_training_state(tmp_path / "last")
