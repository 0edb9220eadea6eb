"""Full-size recipes carry the settings that their official repositories publish."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from bifusion.config.optim import OptimConfig, make_optimizer, schedule_factor
from bifusion.data.transforms import (
    AugmentConfig,
    SceneStream,
    augment_coord,
    jitter_color,
)
from bifusion.recipes import get_recipe

STILL = AugmentConfig(
    flip_probability=0, rotation_rad=0, scale=(1, 1), translation_std_m=0, subvoxel_shift=False,
    elastic_probability=0, color_gain_std=0, color_offset_std=0, color_noise_std=0,
)  # fmt: skip


def stream(epoch: int = 0) -> SceneStream:
    return SceneStream(seed=0, epoch=epoch, scene="room")


@pytest.mark.parametrize("name", ["oneformer3d_scannet20", "oneformer3d_scannet200"])
def test_oneformer3d(name) -> None:
    config = get_recipe(name)
    optim, trainer, augment = config.optim, config.trainer, config.data.augment
    assert (optim.lr, optim.weight_decay, optim.decay_vectors, optim.clip_norm) == (1e-4, 0.05, True, 10)
    assert (optim.schedule, optim.poly_power, optim.warmup_steps) == ("poly", 0.9, 0)
    assert (trainer.epochs, trainer.batch_size) == (512, 4)
    assert (augment.flip_probability, augment.scale, augment.translation_std_m) == (0.5, (0.8, 1.2), 0.1)
    assert augment.elastic_m == ((6 * 0.02, 40 * 0.02), (20 * 0.02, 160 * 0.02))
    assert jitter_color(np.full((4, 3), 9, np.uint8), augment, stream()).tolist() == [[9.0] * 3] * 4
    weights = {term: ramp.value for term, ramp in config.stages.stages[0].weights.items()}
    semantic = 0.2 if name.endswith("20") else 0.5
    assert weights == {"semantic": semantic, "instance_class": 0.5, "mask_bce": 1, "mask_dice": 1}
    assert config.criterion.official_dice_scaling
    assert config.model.decoder.query_share == (0.5, 1.0)
    assert not config.model.decoder.score_head


def test_grids() -> None:
    assert get_recipe("oneformer3d_scannet20").data.origin == "min"
    assert get_recipe("oneformer3d_scannet20").model.unet.spconv_min_grid == 128
    assert get_recipe("oneformer3d_scannet200").data.origin == "world"


def test_mask3d() -> None:
    config = get_recipe("mask3d_scannet20")
    optim, trainer, augment = config.optim, config.trainer, config.data.augment
    assert (optim.lr, optim.weight_decay, optim.decay_vectors) == (1e-4, 0.01, True)
    assert optim.clip_norm >= 1e6, "gradients are not clipped"
    assert (trainer.epochs, trainer.batch_size, trainer.eval_every) == (601, 5, 50)
    assert augment.tilt_rad == pytest.approx(0.13089969389957)
    assert augment.scale_each_axis and augment.scale == (0.9, 1.1)
    assert augment.elastic_probability == 0.95


def test_mask3d_schedule_is_torchs_one_cycle() -> None:
    config, steps = get_recipe("mask3d_scannet20").optim, 1000
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=config.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps)
    for step in range(steps):
        ours = config.lr * schedule_factor(config, step, steps)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=5e-7), step
        optimizer.step()
        scheduler.step() if step < steps - 1 else None


def test_vectors_are_decayed_where_asked() -> None:
    groups = {"decoder": list(nn.Linear(3, 2).parameters())}
    for wanted in (True, False):
        config = OptimConfig(weight_decay=0.1, decay_vectors=wanted)
        decays = [group["weight_decay"] for group in make_optimizer(groups, config).param_groups]
        assert decays == [0.1, 0.1 if wanted else 0.0]


# ------------------------------------------------------------------------------------- augmentation


def test_tilt_is_rigid_and_small() -> None:
    config = dataclasses.replace(STILL, tilt_rad=math.pi / 24)
    up = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
    drawn = np.stack([augment_coord(up, config, stream(epoch)) for epoch in range(50)])
    gram = drawn @ drawn.transpose(0, 2, 1)
    assert np.allclose(gram, np.eye(3), atol=1e-5)
    leaning = np.arccos(drawn[:, 0, 2])
    assert 0.1 < leaning.max() < math.sqrt(2) * math.pi / 24 + 1e-6
    # About both axes: the direction of the lean differs.
    assert np.abs(drawn[:, 0, :2]).max(axis=0).min() > 0.05


def test_scale_of_each_axis() -> None:
    config = dataclasses.replace(STILL, scale=(0.5, 2.0), scale_each_axis=True)
    factors = augment_coord(np.eye(3), config, stream())
    assert np.count_nonzero(factors - np.diag(np.diag(factors))) == 0
    assert len(set(np.diag(factors).tolist())) == 3
    same = augment_coord(np.eye(3), dataclasses.replace(config, scale_each_axis=False), stream())
    assert np.allclose(same, same[0, 0] * np.eye(3))


def test_brightness_is_shared_by_the_channels() -> None:
    config = dataclasses.replace(STILL, brightness_std=0.2)
    offsets = [
        jitter_color(np.full((3, 3), 128, np.uint8), config, stream(epoch)) - 128 for epoch in range(9)
    ]
    assert all(offset.min() == offset.max() for offset in offsets)
    assert np.std([offset[0, 0] for offset in offsets]) > 20
