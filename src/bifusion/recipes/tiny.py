"""Recipes for comparisons of hundreds of runs on two cores: a run of 80 steps takes seconds.

They show what stabilises training and what breaks it. How well a model can segment is no question for
networks and lengths of this size.
"""

from __future__ import annotations

import dataclasses

from bifusion.config.run import Config
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.unet import UNetConfig
from bifusion.recipes.bifusion import bifusion_model, bifusion_small
from bifusion.recipes.mask3d import mask3d_small

VOXEL_SIZE_M = 0.15
IMAGE_SIZE = 160
VIEWS = 3
LR = 2e-3
"""Twice that of the small recipes: a tenth of their steps."""
EPOCHS = 20
"""As many as the verdict of stability asks for."""


def bifusion_tiny() -> Config:
    """BiFusion in seconds: half the widths of `bifusion_small`, 20 epochs.

    Voxels of 15 cm, images of 160 px. Its image tower is that of `bifusion_small`, whose weights it
    takes.
    """
    small = bifusion_small()
    model = half_widths(bifusion_model(small))
    return _short(dataclasses.replace(small, model=model), "bifusion_tiny", VIEWS)


def mask3d_tiny() -> Config:
    """Mask3D in seconds: `mask3d_small` on voxels of 15 cm, 20 epochs."""
    return _short(mask3d_small(), "mask3d_tiny", 0)


def half_widths(model: BiFusionConfig) -> BiFusionConfig:
    """`bifusion_small`'s networks at half their widths, but the image tower."""
    return dataclasses.replace(
        model,
        unet=UNetConfig(kind="residual", in_channels=6, planes=(16, 32, 48)),
        decoder=dataclasses.replace(model.decoder, num_layers=2, dim=64, ffn_dim=128),
        fusion=dataclasses.replace(model.fusion, dim=48, hidden=96),
    )


def _short(config: Config, name: str, views: int) -> Config:
    """Few large voxels, few small images, a short run with a warm-up of its own length."""
    data = dataclasses.replace(
        config.data, voxel_size_m=VOXEL_SIZE_M, image_size=IMAGE_SIZE, max_views=views
    )
    trainer = dataclasses.replace(
        config.trainer, epochs=EPOCHS, eval_every=EPOCHS, save_epochs=EPOCHS, evaluation_views=VIEWS
    )
    optim = dataclasses.replace(config.optim, lr=LR, warmup_steps=8)
    return dataclasses.replace(config, name=name, recipe=name, data=data, trainer=trainer, optim=optim)
