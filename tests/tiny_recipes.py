"""Recipes that train in seconds, by name: `tiny_recipes:baseline`, `tiny_recipes:staged`."""

from __future__ import annotations

from pathlib import Path

from bifusion.config.run import Config
from tiny_runs import tiny_config


def baseline() -> Config:
    """OneFormer3D with a few thousand parameters."""
    return _named("oneformer3d_small", "baseline")


def staged() -> Config:
    """BiFusion of the same size."""
    return _named("bifusion_small", "staged")


def _named(recipe: str, name: str) -> Config:
    config = tiny_config(recipe, Path("data"), epochs=3)
    config.name, config.recipe = name, f"tiny_recipes:{name}"
    return config
