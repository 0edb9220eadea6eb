"""Recipes: functions that return the complete configuration of a run, by name.

A recipe of one's own is a function in any module, named as "my_rooms.recipes:small"; arms and ablations
of a staged one are named as those of ours are, "my_rooms.recipes:small_without_views".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from bifusion import plugins
from bifusion.arguments import text_of
from bifusion.config.run import Config, load_config
from bifusion.errors import InputError
from bifusion.recipes import bifusion, controls, mask3d, mini, oneformer3d, tiny, towers
from bifusion.recipes.ablations import MEASURES
from bifusion.spelling import did_you_mean

Recipe = Callable[[], Config]

_BASELINE_ARM = {"baseline": bifusion.baseline}
"""At small and mini size `oneformer3d_small` and `oneformer3d_mini` are that baseline."""
_ARMS: dict[str, Callable[[Config], Config]] = {
    "without_views": bifusion.without_views,
    "naive": bifusion.naive,
    "plan_a": bifusion.plan_a,
    "plan_b": bifusion.plan_b,
    "2d_only": controls.only_2d,
    "gate_half": controls.gate_half,
    "lifted_rgb": controls.lifted_rgb,
    "random_tower": controls.random_tower,
}
_BIFUSION: dict[str, Recipe] = {
    "bifusion_tiny": tiny.bifusion_tiny,
    "bifusion_mini": mini.bifusion_mini,
    "bifusion_small": bifusion.bifusion_small,
    "bifusion_small_efficientnet": towers.bifusion_small_efficientnet,
    "bifusion_scannet20": bifusion.bifusion_scannet20,
    "bifusion_scannet200": bifusion.bifusion_scannet200,
    "bifusion_scannet20_dinov2": towers.bifusion_scannet20_dinov2,
    "bifusion_scannet200_dinov2": towers.bifusion_scannet200_dinov2,
}


def _arm_of(base: Recipe, arm: Callable[[Config], Config]) -> Recipe:
    return lambda: arm(base())


def _has_own_baseline(name: str) -> bool:
    return "small" in name or "mini" in name


RECIPES: dict[str, Recipe] = {
    "oneformer3d_mini": mini.oneformer3d_mini,
    "oneformer3d_small": oneformer3d.oneformer3d_small,
    "oneformer3d_small_fine": controls.oneformer3d_small_fine,
    "oneformer3d_scannet20": oneformer3d.oneformer3d_scannet20,
    "oneformer3d_scannet200": oneformer3d.oneformer3d_scannet200,
    "mask3d_tiny": tiny.mask3d_tiny,
    "mask3d_small": mask3d.mask3d_small,
    "mask3d_scannet20": mask3d.mask3d_scannet20,
    **_BIFUSION,
    **{
        f"{name}_{arm_name}": _arm_of(base, arm)
        for name, base in _BIFUSION.items()
        for arm_name, arm in (_ARMS if _has_own_baseline(name) else _BASELINE_ARM | _ARMS).items()
    },
}
"""Name -> function that makes a fresh configuration, free to be changed."""


ABLATIONS: dict[str, Recipe] = {
    measure.recipe_name(name): _arm_of(base, measure.apply)
    for name, base in _BIFUSION.items()
    for measure in MEASURES.values()
}
"""Staged recipes with one stabilising measure changed, by name, as `RECIPES`."""


_CHANGES: dict[str, Callable[[Config], Config]] = {
    **{f"_{arm_name}": arm for arm_name, arm in (_BASELINE_ARM | _ARMS).items()},
    **{measure.recipe_name(""): measure.apply for measure in MEASURES.values()},
}
"""What follows the name of a staged recipe -> the arm or ablation that is made of it."""


def get_recipe(name: str) -> Config:
    """A fresh configuration of the recipe `name`; InputError names the one that was meant, or those
    that others are made of.

    "module:function" runs that function: to be called with what a user asks for, never with what a
    stored run says.
    """
    if plugins.is_outside(text_of(name, "name")):
        return _from_outside(name)
    recipe = RECIPES.get(name) or ABLATIONS.get(name)
    if recipe is None:
        close = _baseline_meant(name) or did_you_mean(name, [*RECIPES, *ABLATIONS])
        others = "`bifusion train --help` lists all" if close else f"known are {known_recipes()}"
        raise InputError(f"recipe {name!r} is unknown{close}; {others}")
    return recipe()


def _baseline_meant(name: str) -> str:
    """Where a size of OneFormer3D has no name of its own: it is the baseline of BiFusion's size."""
    meant = f"{name.replace('oneformer3d_', 'bifusion_', 1)}_baseline"
    known = name.startswith("oneformer3d_") and meant in RECIPES
    return f" (did you mean {meant!r}, OneFormer3D of that size?)" if known else ""


def config_of(name: str) -> Config:
    """The configuration that is asked for by a recipe's name or by the path of a config.json."""
    return load_config(Path(name)) if name.endswith(".json") else get_recipe(name)


def _from_outside(name: str) -> Config:
    """What the function called `name` returns, under that name, or an arm or ablation of it."""
    plugins.allow(name)
    base, change, where = name, None, f"recipe {name}"
    if not plugins.exists(name, where):
        for suffix, found in _CHANGES.items():
            if name.endswith(suffix) and plugins.exists(name.removesuffix(suffix), where):
                base, change = name.removesuffix(suffix), found
    config = plugins.make(base, where, Config)
    if change is not None:
        if config.arm != "staged":
            raise InputError(
                f"{where}: {base} is {config.arm!r}; arms and ablations are made of staged recipes"
            )
        config = change(config)
    return dataclasses.replace(config, name=name.replace(":", "."), recipe=name)


def describe_recipes() -> list[tuple[str, str]]:
    """Every recipe that is not made of another one, with what its docstring says first, and how those
    are called that are."""
    made = _made()
    rows = [(n, _described(n)) for n in RECIPES if n not in made and not n.endswith("_mini")]
    others = [name for name in made if not name.startswith(tuple(_BIFUSION))]
    arms = ", ".join([*_BASELINE_ARM, *_ARMS])
    return [*rows, ("BIFUSION_ARM", f"ARM: {arms}, no_MEASURE; {', '.join(others)}")]


def _described(name: str) -> str:
    """What the recipe's docstring says first, and its variants: with other image towers, and smaller."""
    also = [f"…{other.removeprefix(name)}" for other in _BIFUSION if other.startswith(f"{name}_")]
    smaller = name.replace("_small", "_mini")
    also += [smaller] if smaller != name and smaller in RECIPES else []
    first = (RECIPES[name].__doc__ or "").splitlines()[0]
    return f"{first} Also {', '.join(also)}." if also else first


def known_recipes() -> str:
    """The names of those that are not made of another one, where their arms are listed, and what
    ablations are called."""
    names = [name for name in RECIPES if name not in _made()]
    removed = ", ".join(measure.name for measure in MEASURES.values() if not measure.adds)
    added = "".join(f", BASE_{measure.name}" for measure in MEASURES.values() if measure.adds)
    return (
        f"{', '.join(names)}; their arms (`bifusion train --help` lists them); BASE_no_MEASURE{added} "
        f"(MEASURE: {removed}); module:function, a recipe of your own"
    )


def _made() -> list[str]:
    """Names of the recipes that are made of another one."""
    return [name for name in RECIPES if any(name.startswith(f"{base}_") for base in RECIPES)]
