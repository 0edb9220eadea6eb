"""Mask3D, the instance baseline: published size and settings, and a small one."""

from __future__ import annotations

import dataclasses
import math

from bifusion.config.optim import OptimConfig
from bifusion.config.run import Config, TrainerConfig
from bifusion.config.stages import Stage, StagePlan, at_once
from bifusion.data.transforms import AugmentConfig
from bifusion.losses.context import CriterionConfig
from bifusion.losses.matcher import MatcherConfig
from bifusion.models.mask3d import Mask3DConfig
from bifusion.models.mask_decoder import MaskDecoderConfig
from bifusion.models.postprocess_mask3d import Mask3DPostprocessConfig
from bifusion.models.unet import UNetConfig
from bifusion.recipes.oneformer3d import (
    VIEWS_FULL,
    scannet200_data,
    small_data,
    small_optim,
    small_trainer,
)

OFFICIAL_WEIGHTS = {"instance_class": 2.0, "mask_bce": 5.0, "mask_dice": 2.0}


def mask3d_plan() -> StagePlan:
    """One stage: everything trains on all losses from the first step."""
    weights = {term: at_once(weight) for term, weight in OFFICIAL_WEIGHTS.items()}
    return StagePlan((Stage(name="baseline", share=1.0, trains={"*": at_once(1.0)}, weights=weights),))


def mask3d_criterion(*, sum_over_scenes: bool) -> CriterionConfig:
    """One-to-one matching with the costs of the losses (`conf/matcher/hungarian_matcher.yaml`)."""
    matcher = MatcherConfig(kind="hungarian", class_weight=2.0, bce_weight=5.0, dice_weight=2.0)
    return CriterionConfig(matcher=matcher, no_object_weight=0.1, sum_over_scenes=sum_over_scenes)


def mask3d_scannet20() -> Config:
    """Mask3D as published for ScanNet, `scannet_val.sh` and `conf/`.

    What differs: a superpoint belongs to the instance of most of its points (there: to every
    instance that has a point in it); voxels carry the mean of their points' colours and lie, for
    the position code and for DBSCAN, at the mean of their positions (there: one of them);
    the class loss is averaged scene by scene; its cycling of AdamW's first moment is left out;
    upsampling convolutions start from weights scaled by input channels (there: by output channels).
    """
    data = scannet200_data("scannet20", max_views=0)
    return Config(
        name="mask3d_scannet20",
        recipe="mask3d_scannet20",
        arm="mask3d",
        model=Mask3DConfig(),
        stages=mask3d_plan(),
        data=dataclasses.replace(data, augment=mask3d_augmentation()),
        criterion=mask3d_criterion(sum_over_scenes=True),
        postprocess=Mask3DPostprocessConfig(),
        optim=OptimConfig(
            lr=1e-4,
            weight_decay=0.01,
            decay_vectors=True,
            clip_norm=1e6,
            schedule="one_cycle",
            final_factor=4e-6,
        ),
        trainer=TrainerConfig(epochs=601, batch_size=5, eval_every=50, evaluation_views=VIEWS_FULL),
    )


def mask3d_augmentation() -> AugmentConfig:
    """`datasets/semseg.py` with `conf/augmentation/`: elastic distortion nearly always, ± 10 % in scale
    on each axis, tilts of up to 7.5°, brightness and contrast of ± 20 % and shifts of ± 20 (of 255) in
    colour; here with normal spreads as wide as its uniform ones. Its noise has knots one granularity
    apart, ours two."""
    return AugmentConfig(
        scale=(0.9, 1.1),
        scale_each_axis=True,
        tilt_rad=math.pi / 24,
        subvoxel_shift=False,
        elastic_probability=0.95,
        elastic_m=((0.1, 0.4), (0.4, 1.6)),
        color_gain_std=_uniform_std(0.2),
        brightness_std=_uniform_std(0.2),
        color_offset_std=_uniform_std(20 / 255),
        color_noise_std=0.0,
    )


def _uniform_std(limit: float) -> float:
    """Spread of a uniform distribution between ± `limit`."""
    return limit / math.sqrt(3)


def mask3d_small() -> Config:
    """Mask3D in numbers that train on two cores in minutes.

    Colours only, as published: positions among the inputs slowed its learning on the generated rooms
    (loss 39.0 against 33.3 after 14 epochs); its decoder has them in its position code. At half the
    rate of the other small recipes it learns faster (docs/compared.md).
    """
    unet = UNetConfig(
        kind="res16",
        in_channels=3,
        planes=(32, 56, 88, 88, 48, 32),
        blocks=(1, 1, 1, 1, 1, 1),
        stem_planes=16,
        stem_kernel=3,
        final_channels=20,
    )
    decoder = MaskDecoderConfig(
        dim=128,
        heads=4,
        ffn_dim=256,
        rounds=2,
        num_queries=50,
        eval_queries=75,
        key_samples=(200, 800, 3200),
    )
    return Config(
        name="mask3d_small",
        recipe="mask3d_small",
        arm="mask3d",
        model=Mask3DConfig(unet=unet, decoder=decoder),
        stages=mask3d_plan(),
        data=dataclasses.replace(small_data(max_views=0), use_xyz=False, origin="world"),
        criterion=mask3d_criterion(sum_over_scenes=False),
        postprocess=Mask3DPostprocessConfig(),
        optim=dataclasses.replace(small_optim(), lr=5e-4),
        trainer=small_trainer(),
    )
