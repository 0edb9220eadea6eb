"""What a pretraining of the small image tower depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bifusion.bounds import NotNegative, PositiveFloat, PositiveInt, check_bounds
from bifusion.data.dataset import DataConfig
from bifusion.datasets.rooms.pretraining.crops import CropConfig
from bifusion.errors import InputError
from bifusion.labels.sets import get_label_set
from bifusion.models.towers.clip import ClipConfig


def _small_tower() -> ClipConfig:
    return ClipConfig(architecture="small", blocks=4)


@dataclass
class TowerPretrainConfig:
    """Defaults take about a minute on 2 cores."""

    objective: Literal["names", "views"] = "names"
    """names: image crops against class names, from labels that 3D models do not get (contrastive.py);
    views: no labels, image patches against those of other views and against depth (label_free.py)."""
    tower: ClipConfig = field(default_factory=_small_tower)
    label_set: str = "scannet20"
    """names: classes whose names stand on the other side of the contrast."""
    image_size: PositiveInt = 320
    """Long side of the images in pixels."""
    views_per_scene: PositiveInt = 8
    """Most views of a room that are used."""
    voxel_size_m: PositiveFloat = 0.04
    """Spacing of the projected points; a patch must catch several."""
    embedding_dim: PositiveInt = 128
    """Width of the space that both sides share."""
    steps: PositiveInt = 500
    """Optimiser steps."""
    batch_size: PositiveInt = 16
    """Crops a step."""
    lr: PositiveFloat = 1e-3
    """Learning rate at its height."""
    weight_decay: NotNegative = 0.05
    """AdamW's, decoupled."""
    warmup_steps: PositiveInt = 40
    """Steps in which the rate rises from 0."""
    crop: CropConfig = field(default_factory=CropConfig)
    seed: int = 0
    """All randomness comes from it."""

    def views_of(self, rooms_root: Path) -> DataConfig:
        """What is read of the rooms' views."""
        return DataConfig(
            root=rooms_root,
            label_set=self.label_set,
            voxel_size_m=self.voxel_size_m,
            max_views=self.views_per_scene,
            image_size=self.image_size,
            patch_size=self.tower.patch_size,
        )


def check_pretraining(config: TowerPretrainConfig, path: str) -> None:
    """InputError for what would end a pretraining, before anything is made for it.

    `path`: what the configuration is called where it was given, as in --PATH.lr. Refused are numbers out
    of their bounds, crops that the tower's patches do not fill, a label set that there is not, and a
    tower with dense features of its own, which stand for a space of words that this training knows
    nothing of.
    """
    check_bounds(config, path)
    get_label_set(config.label_set)
    if config.crop.size % config.tower.patch_size:
        raise InputError(
            f"{path}.crop.size: found {config.crop.size}, expected a multiple of the tower's patch, "
            f"{config.tower.patch_size} pixels"
        )
    if config.tower.dense != "tokens" or config.tower.register_neurons:
        raise InputError(
            f"tower.dense is {config.tower.dense!r} with {len(config.tower.register_neurons)} register "
            "neurons; only plain tokens are pretrained: use dense 'tokens' and no register neurons"
        )
