"""BiFusion with other image towers than CLIP's; all else is as in the recipe that each is made of."""

from __future__ import annotations

import dataclasses

from bifusion.config.run import Config
from bifusion.config.stages import StagePlan, at_once
from bifusion.models.parts import without_tower
from bifusion.models.towers.timm_cnn import TimmCnnConfig
from bifusion.models.towers.timm_vit import TimmVitConfig
from bifusion.models.towers.timm_weights import HUB, LITE0, PACKAGE
from bifusion.models.towers.tower import TowerConfig
from bifusion.recipes.bifusion import (
    bifusion_scannet20,
    bifusion_scannet200,
    bifusion_small,
    three_stages,
)

LITE0_STAGES = 5
"""Of EfficientNet's seven stages, those up to a stride of 16."""


def bifusion_small_efficientnet() -> Config:
    """BiFusion, small, on EfficientNet-Lite0 trained on ImageNet (extra pretrained-demo).

    Real features without a network: the weights lie in a package. It is no CLIP: it has seen labelled
    photographs of 1,000 classes, and no text.
    """
    base = _with_tower(bifusion_small(), "efficientnet", TimmCnnConfig(pretrained=f"{PACKAGE}{LITE0}"))
    return dataclasses.replace(base, stages=three_stages(LITE0_STAGES))


def bifusion_scannet20_dinov2() -> Config:
    """BiFusion on a frozen DINOv2 ViT-B/14, Res16UNet34C; 132 M parameters."""
    return _with_frozen_dinov2(bifusion_scannet20())


def bifusion_scannet200_dinov2() -> Config:
    """The same on the 200 classes of ScanNet200."""
    return _with_frozen_dinov2(bifusion_scannet200())


def _with_frozen_dinov2(base: Config) -> Config:
    """All blocks, the last norm on, nothing of it trained: as DITR takes its features (Knaebel et al.,
    "DINO in the Room", 2025), which has DINOv2's larger networks too. Depth, whose weights would stay at
    zero, is not given."""
    config = _with_tower(base, "dinov2", TimmVitConfig(pretrained=HUB, depth_channel=False))
    return dataclasses.replace(config, stages=_frozen(base.stages))


def _frozen(plan: StagePlan) -> StagePlan:
    """The stages with an image tower that never trains."""
    stages = [
        dataclasses.replace(
            stage,
            trains=without_tower(stage.trains),
            tower_gradient_scale=at_once(0.0),
        )
        for stage in plan.stages
    ]
    return StagePlan(tuple(stages))


def _with_tower(base: Config, ending: str, tower: TowerConfig) -> Config:
    """`base` under another name, its images cut into the tower's patches."""
    name = f"{base.recipe}_{ending}"
    assert tower.patch is not None
    return dataclasses.replace(
        base,
        name=name,
        recipe=name,
        model=base.model.with_tower(tower),
        data=dataclasses.replace(base.data, patch_size=tower.patch),
    )
