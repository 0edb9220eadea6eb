"""What towers of the timm library share: how they are built, take depth, and name their parameters.

The network and its forward are timm's own (Wightman, "PyTorch Image Models", 2019); only its first
convolution is given depth as a fourth channel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.models.towers.dense import DenseTower
from bifusion.models.towers.depth_conv import ConvWithDepth
from bifusion.models.towers.libraries import library
from bifusion.models.towers.timm_weights import load_weights
from bifusion.models.towers.tower import DEPTH_UNIT_M
from bifusion.spelling import did_you_mean

_BLOCK = re.compile(r"(?:blocks|stages|layer|s)[._]?(\d+)\.")
"""A parameter's place among the blocks of a ViT, or the stages of a CNN."""


class TimmTower(DenseTower):
    """A network of timm, cut off behind the features that are used.

    It always computes as in evaluation: BatchNorm keeps the statistics it came with, so that a view's
    map depends on that view alone, and frozen weights give the same map in training and validation.
    Its weights can be trained all the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, architecture: str, pretrained: str | None, *, depth: bool
    ) -> None:
        """`net`: as `create` makes it, whole; its weights are read here.

        Raises InputError for weights that cannot be had or do not fit."""
        super().__init__()
        self.architecture = architecture
        self.weights_from = "from scratch"
        if pretrained is not None and not next(net.parameters()).is_meta:
            self.weights_from = load_weights(net, architecture, pretrained)
        self.net, self.index = net, 0
        self._conv1 = _first_conv(net, architecture)
        conv = net.get_submodule(self._conv1)
        assert isinstance(conv, nn.Conv2d)
        net.set_submodule(self._conv1, ConvWithDepth(conv, with_depth=depth))
        cfg: Any = net.pretrained_cfg
        for name in ("mean", "std"):
            numbers = torch.tensor(cfg[name], device="cpu").reshape(3, 1, 1)
            self.register_buffer(name, numbers, persistent=False)
        self.licence = cfg.get("license") or "not said"
        self._printed = f"{architecture}, timm {version('timm')}, mean {cfg['mean']}, std {cfg['std']}"
        self.train(False)

    def train(self, mode: bool = True) -> TimmTower:
        """Stays in evaluation, whatever `mode`; its children with it."""
        del mode
        super().train(False)
        return self

    def extra_repr(self) -> str:
        """What its maps depend on and no tensor's shape shows."""
        return self._printed

    def forward(self, images: Tensor, depth_m: Tensor) -> Tensor:
        """(V, H / patch, W / patch, out_channels); see `DenseTower`."""
        views = torch.cat([(images - self.mean) / self.std, depth_m / DEPTH_UNIT_M], dim=1)
        return self.features(views).permute(0, 2, 3, 1)

    def features(self, views: Tensor) -> Tensor:
        """(V, out_channels, h, w) of normalised RGB and depth (V, 4, H, W)."""
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """ "tower.conv1_rgb", "tower.conv1_depth", "tower.embed" (stem, tokens, positions),
        "tower.block0" … in order of depth; a last norm is of the last block."""
        of_block: dict[int, list[nn.Parameter]] = {}
        groups: dict[str, list[nn.Parameter]] = {"conv1_rgb": [], "conv1_depth": [], "embed": []}
        last: list[nn.Parameter] = []
        for name, parameter in self.net.named_parameters():
            block = _BLOCK.match(name)
            if name.startswith(f"{self._conv1}."):
                part = name.removeprefix(f"{self._conv1}.").partition(".")[0]
                groups[f"conv1_{part}"].append(parameter)
            elif block is not None:
                of_block.setdefault(int(block[1]), []).append(parameter)
            else:
                (last if name.startswith("norm.") else groups["embed"]).append(parameter)
        blocks = [of_block[number] for number in sorted(of_block)]
        (blocks[-1] if blocks else groups["embed"]).extend(last)
        groups |= {f"block{number}": block for number, block in enumerate(blocks)}
        return {f"tower.{name}": parameters for name, parameters in groups.items() if parameters}

    def recomputable(self) -> list[nn.Module]:
        """The blocks of a ViT, the stages of a CNN."""
        found = {
            match[0][:-1] for name, _ in self.net.named_parameters() if (match := _BLOCK.match(name))
        }
        return [module for name, module in self.net.named_modules() if name in found]

    def describe(self) -> str:
        """One line: library, architecture, what is used, size, and where the weights come from."""
        millions = sum(p.numel() for p in self.parameters()) / 1e6
        return (
            f"timm image tower {self.architecture}, {self.used()}, patch {self.patch}, "
            f"{millions:.2f} M parameters, weights: {self.weights_from}"
        )

    def used(self) -> str:
        """What of the network is used, for `describe`."""
        raise NotImplementedError


def create(architecture: str, **settings: Any) -> nn.Module:
    """The whole network without its classifier, its weights drawn at random.

    InputError for a name that timm does not know, or a network that cannot give its features.
    """
    timm = library("timm")
    if not timm.is_model(architecture):
        close = did_you_mean(architecture.partition(".")[0], timm.list_models())
        raise InputError(
            f"tower.architecture {architecture!r} is no model of timm {version('timm')}{close}; "
            "expected a name such as 'vit_base_patch14_dinov2.lvd142m' or 'resnet50.a1_in1k'"
        )
    try:
        net = timm.create_model(architecture, pretrained=False, num_classes=0, **settings)
    except (RuntimeError, TypeError) as error:
        raise _unfit(architecture, str(error)) from error
    if not hasattr(net, "forward_intermediates") or not hasattr(net, "prune_intermediate_layers"):
        raise _unfit(architecture, "it does not give its inner features")
    return net


def _unfit(architecture: str, why: str) -> InputError:
    return InputError(
        f"tower.architecture {architecture!r} cannot be used ({why}); a plain ViT goes as a timm_vit "
        "tower, a convolutional network as a timm_cnn"
    )


@cache
def on_meta(make: Callable[..., nn.Module], architecture: str) -> nn.Module:
    """The network without memory, to ask for its numbers."""
    with torch.device("meta"):
        return make(architecture)


def _first_conv(net: nn.Module, architecture: str) -> str:
    """The dotted name of the convolution that reads the image."""
    cfg: Any = net.pretrained_cfg
    name = cfg.get("first_conv")
    known = isinstance(name, str) and isinstance(dict(net.named_modules()).get(name), nn.Conv2d)
    if not known:
        raise _unfit(architecture, f"its first convolution is {name!r}, expected one")
    return name
