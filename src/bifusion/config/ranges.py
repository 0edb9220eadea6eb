"""Numbers of a configuration that make no sense, refused before anything is built from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from bifusion.types import InputError

ABOVE_ZERO = (
    "data.voxel_size_m", "data.image_size", "data.patch_size", "data.depth_size", "data.color_std",
    "data.augment.scale", "data.augment.elastic_m",
    "optim.lr", "optim.eps", "optim.clip_norm", "optim.clip_window", "optim.clip_history",
    "trainer.batch_size", "trainer.accumulate", "trainer.eval_every",
    "trainer.save_epochs", "trainer.devices", "trainer.tower_cache_gb",
    "trainer.guard.rollback_after", "trainer.guard.healthy_every",
    "trainer.guard.rules.window", "trainer.guard.rules.reach", "trainer.guard.rules.min_history",
    "trainer.guard.rules.recent", "trainer.guard.rules.calm", "trainer.guard.rules.spike_calm",
    "data.agreement.points",
    "postprocess.top_k", "postprocess.dbscan_eps_m",
    "model.decoder.dim", "model.decoder.heads", "model.decoder.ffn_dim", "model.decoder.num_queries",
    "model.decoder.eval_queries", "model.decoder.key_samples",
    "model.tower.width", "model.tower.layers", "model.tower.heads", "model.tower.patch_size",
    "model.tower.image_size",
    "model.fusion.dim", "model.fusion.hidden", "model.fusion.film_hidden", "model.fusion.gate_hidden",
    "model.fusion.alignment_hidden", "model.fusion.range_2d",
)  # fmt: skip
NOT_NEGATIVE = (
    "data.max_views", "data.cache_mb", "data.augment.translation_std_m", "data.augment.rotation_rad",
    "data.augment.tilt_rad", "data.augment.color_gain_std", "data.augment.color_offset_std",
    "data.augment.color_noise_std", "data.augment.brightness_std",
    "optim.weight_decay", "optim.warmup_steps", "optim.poly_power", "optim.rates",
    "optim.tower_layer_decay", "optim.clip_deviations",
    "trainer.workers", "trainer.evaluation_views", "trainer.save_every",
    "trainer.guard.max_rollbacks", "trainer.guard.ramp_steps", "trainer.guard.bundles",
    "trainer.guard.rules.updates_every", "trainer.guard.rules.conflicts_every",
    "criterion.no_object_weight", "postprocess.min_points",
    "model.decoder.num_layers", "model.decoder.rounds",
    "model.lifting.depth_tolerance_m", "model.lifting.depth_tolerance_relative",
)  # fmt: skip
SHARES = (
    "data.augment.flip_probability", "data.augment.elastic_probability",
    "data.augment.no_views_probability", "data.augment.fewer_views_probability",
    "optim.final_factor", "optim.one_cycle_rise",
    "model.decoder.dropout", "model.decoder.query_share",
)  # fmt: skip
BELOW_ONE = ("optim.betas",)
ASCENDING = (
    "data.augment.scale", "model.decoder.query_share",
    "trainer.guard.rules.balance", "trainer.guard.rules.update_range",
    "trainer.guard.rules.feature_ratio", "trainer.guard.rules.gate_mean",
)  # fmt: skip
DIVISIBLE = (("model.decoder.dim", "model.decoder.heads"), ("model.tower.width", "model.tower.heads"))

RULES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (ABOVE_ZERO, lambda number: number > 0, "above 0"),
    (NOT_NEGATIVE, lambda number: number >= 0, "0 or more"),
    (SHARES, lambda number: 0 <= number <= 1, "from 0 to 1"),
    (BELOW_ONE, lambda number: 0 <= number < 1, "from 0 to below 1"),
)


def check_ranges(config: dict[str, Any]) -> None:
    """InputError, naming field and option, for a number out of its range or not finite.

    Args:
        config: a configuration in JSON's types (`config_to_dict`). Parts it does not have, such as
            the image tower of OneFormer3D, are not looked at.
    """
    for path, number in numbers(config):
        _require(math.isfinite(number), path, number, "a finite number")
    for paths, fits, expected in RULES:
        for path in paths:
            for _, number in numbers(find(config, path)):
                _require(fits(number), path, number, expected)
    for path in ASCENDING:
        bounds = find(config, path)
        _require(bounds is None or bounds[0] <= bounds[1], path, bounds, "the smaller number first")
    for whole, part in DIVISIBLE:
        size, divisor = find(config, whole), find(config, part)
        if size is not None and divisor is not None:
            _require(size % divisor == 0, whole, size, f"a multiple of {part}, {divisor}")


def find(config: dict[str, Any], path: str) -> Any:
    """What stands at the dotted `path`; None where there is no such part."""
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested objects and lists, with its dotted path."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item, path)


def _require(fits: bool, path: str, found: Any, expected: str) -> None:
    if not fits:
        option = path.replace("_", "-")
        raise InputError(f"{path}: found {found}, expected {expected}; change --{option}")
