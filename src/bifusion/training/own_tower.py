"""Whether an image tower from outside the package keeps what the others promise, before a run starts."""

from __future__ import annotations

import copy

import torch

from bifusion.config.run import Config
from bifusion.data.images import encoder_size
from bifusion.errors import InputError
from bifusion.models.model import Model
from bifusion.models.towers.outside import OutsideTowerConfig
from bifusion.models.towers.tower import FIELD, ImageTower, check_maps
from bifusion.types import BatchView

UNLIKE = 0.02
"""Largest difference of two maps of one view, as a share of the largest number; rounding is below."""


def check_own_tower(model: Model, config: Config, device: torch.device) -> None:
    """`check_tower` of a model whose tower is from outside."""
    if isinstance(config.model.image_tower, OutsideTowerConfig):
        tower = model.get_submodule("tower")
        assert isinstance(tower, ImageTower)
        check_tower(tower, config.data.image_size, config.data.patch_size, device)


def check_tower(tower: ImageTower, image_size: int, patch: int, device: torch.device) -> None:
    """InputError, before the first step, for what would show in a later stage or never: maps of another
    shape, and those that depend on more than their view while nothing of the tower is trained, as
    BatchNorm's do in training. Looked at on a copy, on images of noise.

    image_size, patch: of `DataConfig`.
    """
    copied = copy.deepcopy(tower).requires_grad_(False).to(device)
    first, second = (_noise(seed, image_size, patch, device) for seed in range(2))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        copied.train()
        together = copied.encode_views([first, second])
        check_maps(together, [first, second], copied)
        alone = copied.encode_views([first])[0]
        copied.eval()
        still = copied.encode_views([first])[0]
    for other, where in (
        (alone, "when another view is beside it, or when it is computed again"),
        (still, "in training than in evaluation"),
    ):
        if (together[0] - other).abs().max() > UNLIKE * other.abs().max():
            raise InputError(
                f"{FIELD}: {tower.describe()!r} makes another map of the same view {where}, though "
                "nothing of it is trained; leave BatchNorm and dropout in evaluation, by "
                "`def train(self, mode=True): return super().train(False)`"
            )


def _noise(seed: int, image_size: int, patch: int, device: torch.device) -> BatchView:
    """A view of noise, broader than high."""
    width, height = encoder_size((4, 3), image_size, patch)
    numbers = torch.rand(4, height, width, generator=torch.Generator().manual_seed(seed)).to(device)
    eye = torch.eye(4, device=device)
    K, depth_m = eye[:3, :3], numbers[3]
    return BatchView(0, str(seed), numbers[:3], depth_m[None], K, eye, depth_m, K, eye)
