"""The grid of a sweep: which arms, which rates, and the conditions that are added one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from bifusion.config.run import Config
from bifusion.config.stages import Timeline
from bifusion.errors import InputError
from bifusion.recipes import RECIPES, get_recipe
from bifusion.recipes.ablations import LAYER_SCALE
from bifusion.recipes.bifusion import bifusion_model
from bifusion.spelling import did_you_mean
from bifusion.studies.figures.arms import ROLES
from bifusion.studies.grids.request import check_staged, factor, grid_values, keys_asked_for
from bifusion.studies.sweep.plan import Condition, SweepArm

FACTORS = (0.1, 0.27, 0.72, 1.9, 5.2, 14.0, 37.0, 100.0)
"""Eight rates over three decades, evenly on a logarithmic scale: × 2.7 from one to the next."""
ARMS = ("without_views", "naive", "plan_a", "plan_b")
"""Rivals that are made of the base, besides OneFormer3D."""
COMPARED = ("staged", "naive")
"""Roles that the further conditions concern."""
OUTLIERS = 30.0
"""Factor on a few channels of the 2D features; in CLIP and DINOv2 few fixed channels are larger still
(Sun et al., "Massive Activations in Large Language Models", COLM 2024, arXiv 2402.17762)."""


def _usual(config: Config) -> None:
    """float32; no guard: the first number that is not finite ends the run, as it would make every
    weight NaN."""
    config.trainer.precision = "32-true"
    guard = config.trainer.guard
    config.trainer.guard = dataclasses.replace(guard, rollback_after=1, max_rollbacks=0)


def _precision(precision: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        _usual(config)
        config.trainer.precision = precision  # pyright: ignore[reportAttributeAccessIssue]

    return change


def _range(times: float) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        _usual(config)
        fusion = bifusion_model(config).fusion
        fusion.range_2d, fusion.outliers_2d = times, OUTLIERS

    return change


def _guarded(config: Config) -> None:
    guard = config.trainer.guard
    _usual(config)
    config.trainer.guard = guard


def _layer_scale(config: Config) -> None:
    _usual(config)
    bifusion_model(config).decoder.layer_scale = LAYER_SCALE


def _batch4(config: Config) -> None:
    _usual(config)
    config.trainer.batch_size *= 4


PLAIN = Condition("plain", "float32, no guard", "every arm at its own settings")
CONDITIONS: dict[str, tuple[Condition, Callable[[Config], None]]] = {
    condition.key: (condition, change)
    for condition, change in (
        (PLAIN, _usual),
        (Condition("bf16", "bfloat16", "bf16-mixed arithmetic"), _precision("bf16-mixed")),
        (Condition("fp16", "float16", "16-mixed arithmetic"), _precision("16-mixed")),
        (Condition("outliers", "2D outliers", "one channel in 64 of the 2D features × 30"), _range(1)),
        (Condition("range10", "2D × 10", "the same, and all 2D features × 10"), _range(10)),
        (Condition("range100", "2D × 100", "the same, and all 2D features × 100"), _range(100)),
        (Condition("guard", "with guard", "faulty steps are skipped and rolled back"), _guarded),
        (
            Condition("layer_scale", "LayerScale", "blocks of the decoder begin near the identity"),
            _layer_scale,
        ),
        (Condition("batch4", "batch × 4", "four times the batch, a quarter of the steps"), _batch4),
    )
}
"""Key → condition, and what it changes in a configuration."""
DEFAULT_CONDITIONS = tuple(key for key in CONDITIONS if key != "layer_scale")
"""LayerScale is no trial but a remedy."""


def sweep_arms(base: str) -> tuple[SweepArm, ...]:
    """OneFormer3D, then the base and its rivals; InputError if `base` is no staged BiFusion."""
    check_staged(base, "bifusion_mini")
    baselines = (f"{base}_baseline", base.replace("bifusion", "oneformer3d"))
    baseline = next((name for name in baselines if name in RECIPES), baselines[0])
    return tuple(_arm(name) for name in (baseline, *(f"{base}_{arm}" for arm in ARMS), base))


def _arm(recipe: str) -> SweepArm:
    config = get_recipe(recipe)
    epochs = config.trainer.epochs
    weights = Timeline(config.stages, epochs).at_end(epochs).weights
    label = ROLES.get(config.arm, config.arm)
    return SweepArm(recipe, config.arm, label, config.optim.lr, {k: w for k, w in weights.items() if w})


def chosen_arms(every: Sequence[SweepArm], asked: Sequence[str]) -> tuple[SweepArm, ...]:
    """Those asked for by recipe or role, in their own order; none asked for: all."""
    names = {name: arm.key for arm in every for name in (arm.key, arm.role)}
    keys = keys_asked_for(names, asked, "--sweep")
    return tuple(arm for arm in every if arm.key in keys)


def parse_grid(items: Sequence[str]) -> tuple[tuple[float, ...], tuple[Condition, ...]]:
    """Factors, ascending, and conditions of the default grid, narrowed or changed by `items` such as
    "lr=0.1,1,10" and "condition=plain,bf16"; InputError for what it has not."""
    factors, conditions = FACTORS, DEFAULT_CONDITIONS
    for item in items:
        name, values = grid_values(item, ("lr", "condition"), "lr=0.1,1,10 condition=plain")
        if name == "lr":
            factors = tuple(sorted(factor("lr", text) for text in values))
        else:
            conditions = values
    return factors, tuple(_condition(key) for key in conditions)


def _condition(key: str) -> Condition:
    if key not in CONDITIONS:
        raise InputError(
            f"--grid condition={key}: unknown{did_you_mean(key, CONDITIONS)}; known are "
            f"{', '.join(CONDITIONS)}"
        )
    return CONDITIONS[key][0]
