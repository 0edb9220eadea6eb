"""Tiny rooms and tiny networks, in which a run breaks as a large one does, in a second."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bifusion.config.run import Config, TrainerConfig
from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.datasets.rooms.rooms import make_rooms
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.mask3d import Mask3DConfig
from bifusion.models.mask_decoder import MaskDecoderConfig
from bifusion.models.model import ModelConfig
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.unet import UNetConfig
from bifusion.recipes import get_recipe

ROOMS = RoomsConfig(
    train_rooms=4,
    val_rooms=1,
    stream="laboratory",
    room_size_m=(3.0, 3.2),
    point_spacing_m=0.12,
    views=3,
    image_size=(96, 72),
    depth_size=(64, 48),
)
BATCH_SIZE = 2
STEPS_PER_EPOCH = ROOMS.train_rooms // BATCH_SIZE
HEALTHY_EPOCHS = 52
"""Trained once for each recipe, then every fault goes on from there: every path of BiFusion learns by
then, all ramps of its last stage are over, and the rules have seen a hundred good steps."""
SHORT_RUN = HEALTHY_EPOCHS + 4
"""Epochs of a run with a fault: its step, two more for a rollback, and a few in which it recovers."""
LONG_RUN = HEALTHY_EPOCHS + 14
"""Where a trend is to be seen: the share of seen points is judged over 32 steps."""


def make_tiny_rooms(root: Path) -> Path:
    """Five generated rooms of a few thousand points; returns `root`."""
    make_rooms(root, ROOMS, workers=1)
    return root


def tiny_config(recipe: str, root: Path, epochs: int = SHORT_RUN) -> Config:
    """`recipe`, a small one, on the rooms in `root`, with a network of a few thousand parameters.

    Views are never dropped, so that a fault of a view meets every step; the rate is constant, so that
    a fault late in the run acts as one early in it. Epochs of a fraction of a second are not saved one
    by one, which would take as long as they do. Figures that full runs take every 25 or 50 steps are
    taken every few; all else of guard and rules is as always.
    """
    config = get_recipe(recipe)
    _shrink(config.model)
    augment = dataclasses.replace(
        config.data.augment, no_views_probability=0.0, fewer_views_probability=0.0
    )
    config.data = dataclasses.replace(
        config.data,
        root=root,
        voxel_size_m=0.2,
        max_views=min(config.data.max_views, 2),
        image_size=64,
        augment=augment,
    )
    config.optim = dataclasses.replace(config.optim, schedule="constant", warmup_steps=4)
    config.trainer = TrainerConfig(
        epochs=epochs,
        batch_size=BATCH_SIZE,
        workers=0,
        eval_every=epochs,
        save_epochs=epochs,
        evaluation_views=2,
        accelerator="cpu",
        tower_cache="off",
    )
    rules = config.trainer.guard.rules
    rules.updates_every, rules.conflicts_every = 2, 2
    return config


def _shrink(model: ModelConfig) -> None:
    if isinstance(model, Mask3DConfig):
        model.unet = UNetConfig(
            kind="res16",
            in_channels=model.unet.in_channels,
            planes=(8, 12, 12, 8),
            blocks=(1, 1, 1, 1),
            stem_planes=8,
            stem_kernel=3,
        )
        model.decoder = MaskDecoderConfig(
            dim=16, heads=2, ffn_dim=16, rounds=1, num_queries=8, eval_queries=10, key_samples=(30, 60)
        )
        return
    model.unet = UNetConfig(kind="residual", in_channels=6, planes=(8, 12), blocks=(1, 1))
    score = model.decoder.score_head
    model.decoder = DecoderConfig(num_layers=1, dim=16, heads=2, ffn_dim=16, score_head=score)
    if isinstance(model, BiFusionConfig):
        if isinstance(model.tower, ClipConfig):
            model.tower = ClipConfig(
                architecture="small", width=16, layers=4, heads=2, blocks=4, patch_size=16, image_size=64
            )
        model.fusion = dataclasses.replace(
            model.fusion, dim=16, hidden=16, film_hidden=8, gate_hidden=8, alignment_hidden=8
        )
