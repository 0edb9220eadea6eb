"""A run goes on with other settings where they do not change what is learned; the others are named."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

from bifusion.config.run import Config, save_config
from bifusion.runs.trained_model import load_model
from bifusion.training.train import train
from tiny_runs import make_tiny_data, tiny_config


def constant(root: Path, epochs: int) -> Config:
    """One stage at one rate: another length changes nothing that is trained before it."""
    config = tiny_config("oneformer3d_small", root, epochs=epochs)
    config.optim.schedule = "constant"
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights after two epochs in one go."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(constant(data, 2), run)
    return load_model(run)[0].state_dict()


@pytest.fixture(scope="module")
def begun(data, tmp_path_factory) -> Path:
    """A run of two epochs that was interrupted after the first."""
    run = tmp_path_factory.mktemp("begun") / "run"
    status = train(constant(data, 2), run, on_epoch=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert status.state == "interrupted"
    return run


@pytest.fixture
def run(begun, tmp_path) -> Path:
    return shutil.copytree(begun, tmp_path / "run", symlinks=True)


def is_same(run: Path, weights: dict[str, torch.Tensor]) -> bool:
    found = load_model(run)[0].state_dict()
    return found.keys() == weights.keys() and all(torch.equal(found[k], weights[k]) for k in weights)


def test_case_resume_elsewhere(run, data, whole, bifusion, tmp_path, cases):
    """Data in another place and another number of workers, through the command line."""
    text = (cases / "resume_elsewhere" / "README.txt").read_text()
    (workers,) = re.findall(r"--trainer\.workers \d+", text)
    save_config(constant(data, 2), tmp_path / "run.json")
    moved = shutil.copytree(data, tmp_path / "moved")
    options = ["--data.root", moved, *workers.split(), "--out", run, "--resume"]
    called = bifusion("train", tmp_path / "run.json", *options)
    assert called.status == 0, called.err
    assert is_same(run, whole)
    printed = bifusion("train", tmp_path / "run.json", *options, "--print-config").out
    assert json.loads(printed) == json.loads((run / "config.json").read_text())["config"]


def test_more_epochs_go_on_where_the_schedule_allows(data, whole, tmp_path):
    assert train(constant(data, 1), tmp_path / "run").epochs_done == 1
    status = train(constant(data, 2), tmp_path / "run", resume=True)
    assert (status.state, status.epochs_done) == ("completed", 2)
    assert is_same(tmp_path / "run", whole)
    assert train(constant(data, 2), tmp_path / "run", resume=True).epochs_done == 2


def test_what_differs_is_named_field_by_field(run, data, bifusion, tmp_path):
    save_config(constant(data, 2), tmp_path / "run.json")
    before = (run / "config.json").read_bytes()
    options = ["--trainer.epochs", "4", "--optim.lr", "0.5", "--optim.schedule", "poly"]
    called = bifusion("train", tmp_path / "run.json", "--out", run, "--resume", *options)
    assert called.status == 2
    for line in (
        "  optim.lr: then 0.001, now 0.5\n",
        "  optim.schedule: then 'constant', now 'poly'\n",
        "or choose another folder",
        "May change: ",
        "data.root",
        "trainer.workers",
    ):
        assert line in called.err
    assert "trainer.epochs:" not in called.err, "the schedule it began with allows it"
    assert (run / "config.json").read_bytes() == before


def test_a_length_that_the_schedule_depends_on_is_refused_with_what_to_do(data, bifusion, tmp_path):
    config = tiny_config("oneformer3d_small", data, epochs=1)
    train(config, tmp_path / "run")
    save_config(config, tmp_path / "run.json")
    arguments = ["train", tmp_path / "run.json", "--out", tmp_path / "run", "--resume"]
    called = bifusion(*arguments, "--trainer.epochs", "2")
    assert called.status == 2
    assert "trainer.epochs: then 1, now 2 (optim.schedule 'cosine' is laid out" in called.err
    assert f"--init {tmp_path / 'run'}" in called.err


def test_data_with_other_scenes_is_refused(run, data, bifusion, tmp_path):
    save_config(constant(data, 2), tmp_path / "run.json")
    moved = shutil.copytree(data, tmp_path / "moved")
    scene = next((moved / "train").iterdir())
    scene.rename(scene.with_name("another"))
    options = ["--data.root", moved, "--out", run, "--resume"]
    called = bifusion("train", tmp_path / "run.json", *options)
    assert called.status == 2
    assert f"train/another: is new\n  train/{scene.name}: is gone" in called.err
