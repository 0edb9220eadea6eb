"""What is said of a data set before a training on it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from bifusion.data.dataset import SceneDataset, with_labels
from bifusion.recipes import get_recipe
from bifusion.runs.run_data import data_of
from bifusion.training.preconditions import warn_of_data, warn_of_leaks, warn_of_warmup
from own_classes import make_own_data
from tiny_runs import tiny_config


@pytest.mark.parametrize(
    "what",
    ["as it should be", "in millimetres", "no objects", "none to measure", "nothing to validate on"],
)
def test_what_is_seldom_meant_is_told_before_training(what, tmp_path, caplog):
    root = make_own_data(tmp_path, train=1, val=1)
    if what == "in millimetres":
        for path in root.glob("*/*/coord.npy"):
            np.save(path, np.load(path) * 1000)
    if what == "no objects":
        for path in root.glob("*/*/instance.npy"):
            path.unlink()
    if what == "none to measure":
        for path in root.glob("val/*/instance.npy"):
            path.unlink()
    if what == "nothing to validate on":
        for path in root.glob("val/*/segment.npy"):
            np.save(path, np.full_like(np.load(path), -1))
    data = with_labels(tiny_config("oneformer3d_small", root).data)
    splits = (SceneDataset(data, split, 0, training=split == "train") for split in ("train", "val"))
    warn_of_data(*splits)
    assert ("likely in millimetres" in caplog.text) == (what == "in millimetres")
    assert ("nothing is validated" in caplog.text) == (what == "nothing to validate on")
    assert ("no objects are learned" in caplog.text) == (what == "no objects")
    assert ("no objects are measured" in caplog.text) == (what == "none to measure")
    assert "scenes to" not in caplog.text


def test_scenes_that_lack_what_others_have_are_named(tmp_path, caplog):
    root = make_own_data(tmp_path, train=3, val=2)
    bare, held_out = sorted(root.glob("train/*"))[1], sorted(root.glob("val/*"))[0]
    for folder in (bare, held_out):
        (folder / "segment.npy").unlink()
        shutil.rmtree(folder / "views", ignore_errors=True)
    data = with_labels(tiny_config("bifusion_small", root).data)
    splits = [SceneDataset(data, split, 0, training=split == "train") for split in ("train", "val")]
    warn_of_data(*splits)
    assert f"1 of its 3 scenes to train on have no annotation: {bare.name}" in caplog.text
    assert f"1 of its 2 scenes to validate on have no annotation: {held_out.name}" in caplog.text
    views = f"1 of its 3 scenes to train on have no views: {bare.name}"
    assert (views in caplog.text) == any(root.glob("train/*/views"))


@pytest.mark.parametrize("as_what", ["room", "elsewhere"])
def test_scenes_of_both_splits_are_told_before_training(as_what, tmp_path, caplog):
    root = make_own_data(tmp_path, train=2, val=1)
    (held_out,) = root.glob("val/*")
    trained = sorted(root.glob("train/*"))[0]
    config = tiny_config("oneformer3d_small", root)
    warn_of_leaks(data_of(config))
    assert not caplog.text
    if as_what == "room":  # named alike
        held_out.rename(held_out.with_name(trained.name))
    else:  # its points under another name
        shutil.rmtree(held_out)
        shutil.copytree(trained, held_out)
    warn_of_leaks(data_of(config))
    assert "figures on them say nothing about new scenes" in caplog.text and trained.name in caplog.text


@pytest.mark.parametrize("steps", [8, 7])
def test_a_warmup_that_the_run_does_not_live_to_see_is_told(steps, caplog):
    config = get_recipe("bifusion_small")
    config.optim.warmup_steps = 8
    warn_of_warmup(config, steps)
    assert ("the run has 7 steps: its rates end at 0.88 of" in caplog.text) == (steps == 7)
