"""A configuration that cannot make a run is refused before anything is built from it."""

from __future__ import annotations

from bifusion.bounds import check_bounds
from bifusion.config.plain import check_names
from bifusion.config.run import Config, config_from_dict, config_to_dict
from bifusion.config.stages import check_factors
from bifusion.errors import InputError

WHERE = "configuration"
"""What errors call the whole."""


def check_config(config: Config) -> Config:
    """The configuration as its config.json will be read, to make the run from: code may have set a
    path's text for the path, or numpy's number for Python's.

    Raises InputError where what code has set is no field or of another type, which Python lets pass and
    config.json would be refused for after the training; where a number makes no sense; and where fields
    that must agree do not: a network and the data it is to read."""
    check_names(config, WHERE)
    kind = config.model_kind
    if type(config.postprocess) is not config.model.results_config:
        raise InputError(
            f"postprocess is a {type(config.postprocess).__name__}, which does not belong to a "
            f"{kind} model: take both from one recipe"
        )
    config = config_from_dict(config_to_dict(config), WHERE)
    check_bounds(config)
    check_factors(config.stages)
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
    return config
