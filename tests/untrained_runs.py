"""Run folders of tiny models with untrained weights, made in a moment."""

from __future__ import annotations

from pathlib import Path

from bifusion.config.run import Config, TrainerConfig
from bifusion.config.stages import Stage, StagePlan, at_once
from bifusion.data.dataset import DataConfig
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.build import build_model
from bifusion.models.fusion import FusionConfig
from bifusion.models.oneformer3d import OneFormer3DConfig
from bifusion.models.postprocess import PostprocessConfig
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.unet import UNetConfig
from bifusion.runs.checkpoint import save_checkpoint

UNET = UNetConfig(kind="residual", in_channels=6, planes=(8, 16))
DECODER = DecoderConfig(num_layers=1, dim=16, heads=2, ffn_dim=16)
PLAN = StagePlan(
    (
        Stage("first", 1, trains={}, weights={}, run_2d=False),
        Stage("last", 1, trains={}, weights={}, gate_scale=at_once(1.0), fixed_alpha=0.25),
    )
)


def baseline() -> Config:
    return tiny_config(OneFormer3DConfig(unet=UNET, decoder=DECODER), max_views=0)


def bifusion() -> Config:
    tower = ClipConfig(architecture="small", blocks=1, width=16, layers=1, heads=2, image_size=64)
    fusion = FusionConfig(dim=16, hidden=16, film_hidden=8, gate_hidden=8, alignment_hidden=8)
    model = BiFusionConfig(unet=UNET, decoder=DECODER, tower=tower, fusion=fusion)
    return tiny_config(model, max_views=2)


def tiny_config(model: OneFormer3DConfig | BiFusionConfig, max_views: int) -> Config:
    return Config(
        name="tiny",
        recipe="tiny",
        arm="baseline",
        model=model,
        stages=PLAN,
        data=DataConfig(voxel_size_m=0.1, max_views=max_views, image_size=64),
        postprocess=PostprocessConfig(min_points=5),
        trainer=TrainerConfig(epochs=4),
    )


def save_run(root: Path, config: Config, epoch: float = 4.0) -> Path:
    """A run folder with nothing but an untrained last checkpoint."""
    model = build_model(config.model, config.seed, config.labels)
    save_checkpoint(root / "checkpoints", model, config, {"time": epoch}, step=1, links=["last"])
    return root
