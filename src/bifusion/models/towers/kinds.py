"""The kinds of image towers that a model can have."""

from __future__ import annotations

from bifusion.models.towers.clip import ClipConfig
from bifusion.models.towers.outside import OutsideTowerConfig
from bifusion.models.towers.pixels import PixelsConfig
from bifusion.models.towers.timm_cnn import TimmCnnConfig
from bifusion.models.towers.timm_vit import TimmVitConfig

AnyTowerConfig = ClipConfig | TimmVitConfig | TimmCnnConfig | PixelsConfig | OutsideTowerConfig
"""A stored one has its `kind` beside its fields."""
