"""Numbers of a configuration that make no sense are refused before anything is built from them."""

import dataclasses

import pytest

from bifusion.config.ranges import (
    ABOVE_ZERO,
    ASCENDING,
    DIVISIBLE,
    NOT_NEGATIVE,
    SHARES,
    check_ranges,
    find,
)
from bifusion.config.run import check_consistent, config_to_dict
from bifusion.recipes import RECIPES, get_recipe
from bifusion.types import InputError


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_in_range(name):
    check_consistent(get_recipe(name))


def test_every_path_stands_in_some_recipe():
    """A misspelt path would never be looked at."""
    configs = [config_to_dict(get_recipe(name)) for name in ("mask3d_small", "bifusion_small")]
    paths = {
        *ABOVE_ZERO,
        *NOT_NEGATIVE,
        *SHARES,
        *ASCENDING,
        *(path for pair in DIVISIBLE for path in pair),
    }
    assert {path for path in paths if all(find(config, path) is None for config in configs)} == set()


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("data.voxel_size_m", 0.0, "above 0"),
        ("data.voxel_size_m", float("nan"), "a finite number"),
        ("data.max_views", -1, "0 or more"),
        ("data.color_std", (60.0, 0.0, 60.0), "above 0"),
        ("data.augment.flip_probability", 1.5, "from 0 to 1"),
        ("data.augment.scale", (1.2, 0.8), "the smaller number first"),
        ("optim.lr", -1e-3, "above 0"),
        ("optim.rates", {"tower.*": float("inf")}, "a finite number"),
        ("optim.betas", (0.9, 1.0), "from 0 to below 1"),
        ("trainer.accumulate", 0, "above 0"),
        ("trainer.eval_every", 0, "above 0"),
        ("model.decoder.heads", 3, "a multiple of model.decoder.heads, 3"),
        ("model.tower.heads", 0, "above 0"),
    ],
)
def test_number_out_of_range(path, value, expected):
    config = get_recipe("bifusion_small")
    owner = config
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, value)
    with pytest.raises(InputError, match=f"found .*, expected {expected}; change --") as error:
        check_consistent(config)
    assert path.rsplit(".", 1)[0] in str(error.value)


def test_parts_that_are_missing_are_not_looked_at():
    config = get_recipe("oneformer3d_small")
    check_ranges(config_to_dict(config))
    assert find(config_to_dict(dataclasses.replace(config)), "model.tower.width") is None
