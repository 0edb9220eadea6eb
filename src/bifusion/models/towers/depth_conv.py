"""The first convolution of a pretrained network, taking depth as a fourth channel."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ConvWithDepth(nn.Module):
    """A convolution of RGB as it was, and one of depth beside it, without bias and starting at zero.

    As convolution is linear in its input channels, the sum of both is exactly one convolution of four
    channels; apart, the pretrained and the new weights can be trained and watched apart.
    """

    def __init__(self, rgb: nn.Conv2d, *, with_depth: bool) -> None:
        super().__init__()
        self.rgb = rgb
        self.depth = _of_one_channel(rgb) if with_depth else None

    def forward(self, images: Tensor) -> Tensor:
        """(V, 4, H, W), RGB and depth as the network is to see them, to (V, channels, h, w)."""
        features = self.rgb(images[:, :3].contiguous())
        return features if self.depth is None else features + self.depth(images[:, 3:].contiguous())


def _of_one_channel(conv: nn.Conv2d) -> nn.Conv2d:
    """The same kind of convolution (padding included) with one input channel, at zero."""
    depth = copy.deepcopy(conv)
    depth.in_channels, depth.bias = 1, None
    depth.weight = nn.Parameter(torch.zeros_like(conv.weight[:, :1]))
    return depth
