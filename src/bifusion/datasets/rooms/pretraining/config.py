"""What a pretraining of the small image tower depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bifusion.data.dataset import DataConfig
from bifusion.datasets.rooms.pretraining.crops import CropConfig
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
    image_size: int = 320
    """Long side of the images in pixels."""
    views_per_scene: int = 8
    """Most views of a room that are used."""
    voxel_size_m: float = 0.04
    """Spacing of the projected points; a patch must catch several."""
    embedding_dim: int = 128
    """Width of the space that both sides share."""
    steps: int = 500
    """Optimiser steps."""
    batch_size: int = 16
    """Crops a step."""
    lr: float = 1e-3
    """Learning rate at its height."""
    weight_decay: float = 0.05
    """AdamW's, decoupled."""
    warmup_steps: int = 40
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
