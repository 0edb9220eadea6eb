"""Vision transformers of timm as dense feature maps: DINOv2, DINOv3, SigLIP 2 and others.

Patch tokens of the last used block, class and register tokens left out. Positions are brought to the
image's own grid by timm (learned ones resampled, rotary ones computed), so images of any size go that
are whole patches. Sources: Oquab et al., "DINOv2", 2023 (weights Apache-2.0); Darcet et al., "Vision
Transformers Need Registers", 2023; Siméoni et al., "DINOv3", 2025 (weights under Meta's DINOv3 licence);
Tschannen et al., "SigLIP 2", 2025 (weights Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from bifusion.bounds import PositiveInt
from bifusion.errors import InputError
from bifusion.models.towers.timm_tower import TimmTower, create, on_meta
from bifusion.models.towers.tower import TowerConfig


@dataclass
class TimmVitConfig(TowerConfig):
    """A vision transformer of timm; the default is DINOv2's ViT-B/14."""

    kind: ClassVar[str] = "timm_vit"

    architecture: str = "vit_base_patch14_dinov2.lvd142m"
    """A ViT of timm's list, such as "vit_base_patch14_reg4_dinov2.lvd142m" (with registers),
    "vit_base_patch16_dinov3.lvd1689m", "vit_base_patch16_siglip_256.v2_webli"."""
    pretrained: str | None = None
    """"hub": what timm names as this architecture's weights, from the cache or downloaded; a local
    .safetensors / .pth / .bin file of timm's or of the authors'; or None: from scratch."""
    blocks: PositiveInt | None = None
    """Transformer blocks used, the others are dropped; None: all."""
    final_norm: bool = True
    """Apply the network's last norm to the tokens, as DINOv2 does to those it gives."""
    depth_channel: bool = True
    """Give the tower a view's depth as a fourth channel."""

    def build(self) -> TimmVit:
        return TimmVit(self)

    @property
    def patch(self) -> int:
        return _patch_size(on_meta(_whole, self.architecture), self.architecture)


class TimmVit(TimmTower):
    """Images and depth to patch tokens (V, H / patch, W / patch, width); see `TimmVitConfig`."""

    def __init__(self, config: TimmVitConfig) -> None:
        """Raises InputError for an unknown architecture, one that is no ViT, more blocks than it has, or
        weights that cannot be had or do not fit."""
        net: Any = _whole(config.architecture)
        self_patch, layers = _patch_size(net, config.architecture), len(net.blocks)
        blocks = layers if config.blocks is None else config.blocks
        if not 1 <= blocks <= layers:
            raise InputError(
                f"tower.blocks is {blocks}; {config.architecture} allows 1 … {layers} blocks"
            )
        super().__init__(net, config.architecture, config.pretrained, depth=config.depth_channel)
        self.config, self.layers = config, layers
        self.patch, self.out_channels, self.index = self_patch, net.embed_dim, blocks - 1
        net.prune_intermediate_layers([self.index], prune_norm=not config.final_norm, prune_head=True)

    def features(self, views: Tensor) -> Tensor:
        """(V, width, h, w): tokens after the last used block, normed where asked for."""
        net: Any = self.net
        (tokens,) = net.forward_intermediates(
            views, indices=[self.index], norm=self.config.final_norm, intermediates_only=True
        )
        return tokens

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.used()}"

    def used(self) -> str:
        norm = "normed" if self.config.final_norm else "not normed"
        return f"{self.index + 1} of {self.layers} blocks ({norm}), width {self.out_channels}"


def _whole(architecture: str) -> nn.Module:
    return create(architecture, dynamic_img_size=True, global_pool="")


def _patch_size(net: Any, architecture: str) -> int:
    sides = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if not hasattr(net, "blocks") or sides is None or sides[0] != sides[1]:
        raise InputError(
            f"tower.architecture {architecture!r} is no ViT of square patches; expected one such as "
            "'vit_base_patch14_dinov2.lvd142m', or a timm_cnn tower"
        )
    return sides[0]
