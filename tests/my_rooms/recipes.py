"""Recipes of one's own: small changes of one of BiFusion's."""

import dataclasses

from bifusion.config.run import Config
from bifusion.config.stages import StagePlan, at_once
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.towers.outside import OutsideTowerConfig
from bifusion.models.unet import UNetConfig
from bifusion.recipes import get_recipe


def small() -> Config:
    """`bifusion_tiny` on own scenes, with a tower, a 3D network, a gate and a loss term of one's own."""
    config = get_recipe("bifusion_tiny")
    config.model.tower = OutsideTowerConfig("my_rooms.towers:stripes")
    config.data.source = "my_rooms.data:scenes"
    config.criterion.extra = {"confident": "my_rooms.losses:confident"}
    stages = [
        dataclasses.replace(
            stage,
            weights=stage.weights | {"confident": at_once(0.2)},
            trains={name: ramp for name, ramp in stage.trains.items() if not name.startswith("tower.")}
            | ({"tower.*": at_once(1.0)} if stage.name == "enhancement" else {}),
        )
        for stage in config.stages.stages
    ]
    config.stages = StagePlan(tuple(stages))
    config = _tinier(config)
    config.model.unet = UNetConfig(kind="outside", function="my_rooms.networks:two_layers")
    config.model.fusion.gate_function = "my_rooms.networks:with_place"
    return config


def plain() -> Config:
    """OneFormer3D, as tiny."""
    return _tinier(get_recipe("oneformer3d_small"))


def _tinier(config: Config) -> Config:
    """A network of a few thousand parameters, three epochs in this process."""
    score = config.model.decoder.score_head
    config.model.unet = UNetConfig(kind="residual", in_channels=6, planes=(8, 12), blocks=(1, 1))
    config.model.decoder = DecoderConfig(num_layers=1, dim=16, heads=2, ffn_dim=16, score_head=score)
    if config.model_kind == "bifusion":
        config.model.fusion = dataclasses.replace(config.model.fusion, dim=16, hidden=16, film_hidden=8)
    config.data = dataclasses.replace(config.data, voxel_size_m=0.12, image_size=64)
    config.trainer = dataclasses.replace(
        config.trainer, epochs=3, batch_size=2, workers=0, accelerator="cpu", save_epochs=1
    )
    config.optim.warmup_steps = 0
    return config


def nothing() -> None:
    """A mistake: no configuration."""
