"""What code sets in a configuration is held to its fields and their types before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bifusion
from bifusion.config.run import Config, load_config, save_config
from bifusion.errors import InputError
from bifusion.recipes import RECIPES, get_recipe
from bifusion.runs.check_config import check_config


def changed(path: str, value: Any) -> Config:
    """A recipe's configuration with one attribute set, as code sets it."""
    config = owner = get_recipe("bifusion_small")
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, value)
    return config


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_stays_what_it_is(name):
    assert check_config(get_recipe(name)) == get_recipe(name)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trainer.epochs", 2.5, "trainer.epochs: found 2.5, expected int"),
        ("trainer.batch_size", None, "trainer.batch_size: found None, expected int"),
        ("trainer.deterministic", "no", "trainer.deterministic: found 'no', expected bool"),
        ("trainer.precision", "bf16", r"trainer.precision: found 'bf16', .*did you mean 'bf16-mixed'"),
        ("optim.lr", "1e-3", "optim.lr: found '1e-3', expected a number"),
        ("optim", 1e-3, "optim: found 0.001, expected an object with the fields of OptimConfig"),
        ("data.root", 3, "data.root: found 3, expected a path"),
        ("seed", "0", "seed: found '0', expected int"),
        ("model", None, "model: is a NoneType; expected one of OneFormer3DConfig"),
    ],
)
def test_a_value_of_another_type_is_refused_before_anything_starts(tmp_path, path, value, message):
    with pytest.raises(InputError, match=message):
        bifusion.train(changed(path, value), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("optim.learning_rate", "configuration.optim: unknown field learning_rate of OptimConfig"),
        ("trainer.batchsize", r"trainer: unknown field batchsize .*did you mean 'batch_size'"),
        ("sed", r"configuration: unknown field sed of Config .did you mean 'seed'"),
    ],
)
def test_a_misspelt_field_is_refused(tmp_path, path, message):
    with pytest.raises(InputError, match=message):
        bifusion.train(changed(path, 7), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "value", "taken"),
    [
        ("optim.lr", np.float32(0.5), 0.5),
        ("optim.lr", np.float64(0.5), 0.5),
        ("optim.lr", 1, 1.0),
        ("trainer.epochs", np.int64(3), 3),
        ("data.color_std", np.array([60.0, 50.0, 40.0]), (60.0, 50.0, 40.0)),
        ("data.root", "rooms", Path("rooms")),
        ("trainer.recompute", ["tower"], ("tower",)),
    ],
)
def test_what_means_the_same_is_taken_and_can_be_read_again(tmp_path, path, value, taken):
    config = check_config(changed(path, value))
    found = config
    for name in path.split("."):
        found = getattr(found, name)
    assert found == taken and type(found) is type(taken)
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config


def test_what_a_label_set_has_worked_out_is_no_misspelt_field():
    config = get_recipe("bifusion_small")
    config.data.labels = config.labels
    assert "scannet20" in config.data.labels.describe() and config.data.labels.class_names
    check_config(config)
