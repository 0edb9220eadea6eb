"""A configuration that cannot make a run is refused before anything is built from it."""

from __future__ import annotations

from bifusion.bounds import check_bounds
from bifusion.config.run import Config
from bifusion.errors import InputError


def check_config(config: Config) -> None:
    """InputError where a number makes no sense, or where fields that must agree do not: a network
    and the data it is to read."""
    check_bounds(config)
    model, data = config.model, config.data
    channels = "channels of data.use_xyz"
    pairs = [
        ("model.unet.in_channels", model.unet.in_channels, channels, data.feature_channels),
    ]
    tower = model.image_tower
    if config.uses_views and tower is not None and tower.patch is not None:
        pairs.append(("the patch of model.tower", tower.patch, "data.patch_size", data.patch_size))
    for ours, value, theirs, other in pairs:
        if value != other:
            raise InputError(
                f"{ours} is {value!r}, but {theirs} is {other!r}: set both to the same value"
            )
    both = set(config.trainer.recompute) & set(config.trainer.compile)
    if both:
        raise InputError(
            f"trainer.recompute and trainer.compile both name {' and '.join(sorted(both))}: of compiled "
            "blocks the compiler chooses what is kept; name a part in one of them"
        )
    if type(config.postprocess) is not model.results_config:
        raise InputError(
            f"postprocess is a {type(config.postprocess).__name__}, which does not belong to a "
            f"{config.model_kind} model: take both from one recipe"
        )
