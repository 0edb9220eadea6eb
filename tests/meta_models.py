"""Models of recipes on the meta device: names and shapes alone, each built once for all that ask."""

from __future__ import annotations

import torch

from bifusion.config.run import Config
from bifusion.models.build import build_model
from bifusion.models.model import Model

_BUILT: dict[str, Model] = {}


def meta_model(config: Config) -> Model:
    """Not to be changed: recipes that differ in how they train share it."""
    key = repr((config.model, config.labels))
    if key not in _BUILT:
        with torch.device("meta"):
            _BUILT[key] = build_model(config.model, config.seed, config.labels, load_pretrained=False)
    return _BUILT[key]
