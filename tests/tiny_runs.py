"""Tiny configurations that train in seconds on the rooms of scene_factory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bifusion.config.run import Config, TrainerConfig
from bifusion.config.stages import StagePlan, at_once
from bifusion.models.mask_decoder import MaskDecoderConfig
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.unet import UNetConfig
from bifusion.recipes import get_recipe
from scene_factory import make_tiny_scene


def make_tiny_data(root: Path, train: int = 4, val: int = 2) -> Path:
    """A data set of tiny rooms with two views each; returns `root`."""
    first = {"train": 100 * train, "val": 100 * val + (50 if train == val else 0)}  # no room in both
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            make_tiny_scene(root / split / f"room{split}{index}", seed=first[split] + index)
    return root


def tiny_config(recipe: str, root: Path, *, epochs: int = 3) -> Config:
    """`recipe` (a small one, not Mask3D's) with a network of a few thousand parameters, two batches an
    epoch."""
    config = get_recipe(recipe)
    config.model.unet = UNetConfig(kind="residual", in_channels=6, planes=(8, 12), blocks=(1, 1))
    score = config.model.decoder.score_head
    config.model.decoder = DecoderConfig(num_layers=1, dim=16, heads=2, ffn_dim=16, score_head=score)
    if config.model_kind == "bifusion":
        if isinstance(config.model.tower, ClipConfig):
            config.model.tower = ClipConfig(
                architecture="small", width=16, layers=4, heads=2, blocks=4, patch_size=16, image_size=64
            )
        config.model.fusion = dataclasses.replace(config.model.fusion, dim=16, hidden=16, film_hidden=8)
    views = min(config.data.max_views, 2)
    config.data = dataclasses.replace(
        config.data, root=root, voxel_size_m=0.12, max_views=views, image_size=64
    )
    config.trainer = TrainerConfig(
        epochs=epochs,
        batch_size=2,
        workers=0,
        eval_every=1,
        evaluation_views=2,
        accelerator="cpu",
    )
    config.optim.warmup_steps = 0
    return config


def tiny_mask3d(root: Path, *, epochs: int = 3) -> Config:
    """The same of Mask3D."""
    config = get_recipe("mask3d_small")
    config.model.unet = UNetConfig(
        kind="res16",
        in_channels=config.data.feature_channels,
        planes=(8, 12, 12, 8),
        blocks=(1, 1, 1, 1),
        stem_planes=8,
        stem_kernel=3,
    )
    config.model.decoder = MaskDecoderConfig(
        dim=16, heads=2, ffn_dim=16, rounds=1, num_queries=8, eval_queries=10, key_samples=(30, 60)
    )
    config.data = dataclasses.replace(config.data, root=root, voxel_size_m=0.12, image_size=64)
    config.trainer = TrainerConfig(
        epochs=epochs, batch_size=2, workers=0, eval_every=1, evaluation_views=2, accelerator="cpu"
    )
    config.optim.warmup_steps = 0
    return config


def without_ramps(plan: StagePlan) -> StagePlan:
    """The stages at their full values: at the first step of each, ramps are still where they begin."""
    stages = [
        dataclasses.replace(
            stage,
            trains={group: at_once(ramp.value) for group, ramp in stage.trains.items()},
            weights={term: at_once(ramp.value) for term, ramp in stage.weights.items()},
            gate_scale=at_once(stage.gate_scale.value),
            tower_gradient_scale=at_once(stage.tower_gradient_scale.value),
        )
        for stage in plan.stages
    ]
    return StagePlan(tuple(stages))
