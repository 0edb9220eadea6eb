"""The pixels' own colours in place of a tower's features: what images tell without any pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bifusion.models.towers.clip import CLIP_MEAN, CLIP_STD
from bifusion.models.towers.tower import ImageTower, TowerConfig
from bifusion.types import BatchView


@dataclass
class PixelsConfig(TowerConfig):
    """The pixels' RGB is lifted as it is; there is nothing to choose."""

    kind: ClassVar[str] = "pixels"

    def build(self) -> PixelColors:
        return PixelColors()


class PixelColors(ImageTower):
    """Views to maps (H, W, 3) of their RGB, normalised as a CLIP tower's input. Nothing is learned."""

    mean: Tensor
    std: Tensor
    out_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(CLIP_MEAN, device="cpu"), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD, device="cpu"), persistent=False)

    def encode_views(self, views: Sequence[BatchView]) -> list[Tensor]:
        """One map a view, as fine as its image."""
        return [(view.image.permute(1, 2, 0) - self.mean) / self.std for view in views]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """None: nothing is learned."""
        return {}

    def describe(self) -> str:
        """One line for run descriptions, where others say what their tower is."""
        return "no tower: RGB of the pixels as the tower would read it, lifted to the voxels"
