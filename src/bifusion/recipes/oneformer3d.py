"""OneFormer3D, the 3D baseline: published sizes and settings, and a small one."""

from __future__ import annotations

import dataclasses

from bifusion.config.optim import OptimConfig
from bifusion.config.run import Config, TrainerConfig
from bifusion.config.stages import Stage, StagePlan, at_once
from bifusion.data.dataset import DataConfig
from bifusion.data.transforms import AugmentConfig
from bifusion.losses.context import CriterionConfig
from bifusion.models.oneformer3d import OneFormer3DConfig
from bifusion.models.query_decoder import DecoderConfig
from bifusion.models.unet import UNetConfig

VIEWS_FULL = 8
"""Views a scene at full size; models that read none are judged on the points these see."""
VIEWS_SMALL = 6

OFFICIAL_INSTANCE_WEIGHTS = {"instance_class": 0.5, "mask_bce": 1.0, "mask_dice": 1.0}

SCANNET200_MEAN = (0.47793125906962 * 255, 0.4303257521323044 * 255, 0.3749598901421883 * 255)
SCANNET200_STD = (0.2834475483823543 * 255, 0.27566157565723015 * 255, 0.27018971370874995 * 255)


def baseline_plan(semantic_weight: float) -> StagePlan:
    """One stage: everything trains on all official losses from the first step."""
    weights = {"semantic": semantic_weight, **OFFICIAL_INSTANCE_WEIGHTS}
    stage = Stage(
        name="baseline",
        share=1.0,
        trains={"*": at_once(1.0)},
        weights={term: at_once(weight) for term, weight in weights.items()},
    )
    return StagePlan((stage,))


def scannet200_data(label_set: str, max_views: int) -> DataConfig:
    """Input of the Res16UNet34C networks: colour only, grid anchored at the world's zero."""
    return DataConfig(
        label_set=label_set,
        voxel_size_m=0.02,
        origin="world",
        color_mean=SCANNET200_MEAN,
        color_std=SCANNET200_STD,
        use_xyz=False,
        max_views=max_views,
        image_size=640,
    )


def oneformer3d_scannet20() -> Config:
    """OneFormer3D as published for ScanNet, `oneformer3d_1xb4_scannet.py`.

    Its colour augmentation is none, so jitter is off here too; its rate falls once an epoch, ours at
    every step. It starts from SSTNet's backbone: `--init`, see RECIPES.md.
    """
    return Config(
        name="oneformer3d_scannet20",
        recipe="oneformer3d_scannet20",
        arm="baseline",
        model=OneFormer3DConfig(unet=UNetConfig(spconv_min_grid=128)),
        stages=baseline_plan(semantic_weight=0.2),
        data=DataConfig(label_set="scannet20", augment=official_augmentation()),
        criterion=CriterionConfig(official_dice_scaling=True),
        optim=OptimConfig(
            lr=1e-4,
            weight_decay=0.05,
            decay_vectors=True,
            clip_norm=10.0,
            schedule="poly",
            poly_power=0.9,
        ),
        trainer=TrainerConfig(epochs=512, batch_size=4, eval_every=16, evaluation_views=VIEWS_FULL),
    )


def oneformer3d_scannet200() -> Config:
    """OneFormer3D as published for ScanNet200; starts from Mask3D's backbone."""
    base = oneformer3d_scannet20()
    data = scannet200_data("scannet200", max_views=0)
    return dataclasses.replace(
        base,
        name="oneformer3d_scannet200",
        recipe="oneformer3d_scannet200",
        model=OneFormer3DConfig(unet=UNetConfig(kind="res16", in_channels=3)),
        stages=baseline_plan(semantic_weight=0.5),
        data=dataclasses.replace(data, augment=official_augmentation()),
    )


def official_augmentation() -> AugmentConfig:
    """Flips, rotation, scale, translation, elastic distortion; colours as they are."""
    return AugmentConfig(
        subvoxel_shift=False, color_gain_std=0.0, color_offset_std=0.0, color_noise_std=0.0
    )


def oneformer3d_small() -> Config:
    """OneFormer3D that trains on two cores in minutes."""
    return Config(
        name="oneformer3d_small",
        recipe="oneformer3d_small",
        arm="baseline",
        model=OneFormer3DConfig(unet=small_unet(), decoder=small_decoder(score_head=False)),
        stages=baseline_plan(semantic_weight=0.5),
        data=small_data(max_views=0),
        optim=small_optim(),
        trainer=small_trainer(),
    )


def small_unet() -> UNetConfig:
    """Four levels, for voxels of 8 cm."""
    return UNetConfig(kind="residual", in_channels=6, planes=(16, 32, 48, 64))


def small_decoder(*, score_head: bool) -> DecoderConfig:
    """Half the width and depth of the published decoder."""
    return DecoderConfig(num_layers=3, dim=128, heads=4, ffn_dim=256, score_head=score_head)


def small_data(max_views: int) -> DataConfig:
    """Rooms of about 4 m: no elastic distortion, which would bend them out of shape in 40 epochs.

    Voxels of 8 cm: half the voxels of 6 cm, and in the same time twice the epochs, which a network
    that starts from nothing needs more (validation mIoU 0.45 instead of 0.22 for the baseline).
    """
    augment = AugmentConfig(elastic_probability=0.0, scale=(0.9, 1.1))
    return DataConfig(label_set="scannet20", voxel_size_m=0.08, max_views=max_views, augment=augment)


def small_optim() -> OptimConfig:
    """A rate for hundreds of steps instead of a hundred thousand."""
    return OptimConfig(
        lr=1e-3, weight_decay=0.05, clip_norm=1.0, schedule="cosine", final_factor=0.02, warmup_steps=40
    )


def small_trainer() -> TrainerConfig:
    """One room a step, for more steps; loaded in the training process, as two runs share two cores."""
    return TrainerConfig(epochs=40, batch_size=1, workers=0, eval_every=8, evaluation_views=VIEWS_SMALL)
