"""A 3D network and a gate of one's own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifusion.models.backbone import Backbone
from bifusion.models.gate import Gate
from bifusion.sparse.modules import BatchNorm, SubmanifoldConv3d
from bifusion.sparse.tensor import SparseTensor


class TwoLayers(Backbone):
    """Two sparse convolutions without levels."""

    def __init__(self, in_channels: int, channels: int = 8) -> None:
        super().__init__()
        self.out_channels = channels
        self.first = SubmanifoldConv3d(in_channels, channels, 3)
        self.norm = BatchNorm(channels)
        self.second = SubmanifoldConv3d(channels, channels, 3)

    def forward(self, x: SparseTensor) -> Tensor:
        x = self.first(x)
        return self.second(x.replace(self.norm(x.feats, relu=True))).feats


class Mixing(TwoLayers):
    """A mistake: subtracts the mean of all scenes."""

    def forward(self, x: SparseTensor) -> Tensor:
        features = super().forward(x)
        return features - features.mean(dim=0)


class Short(TwoLayers):
    """A mistake: leaves the last voxel out."""

    def forward(self, x: SparseTensor) -> Tensor:
        return super().forward(x)[:-1]


class Unfit(TwoLayers):
    """A mistake: divides by nothing."""

    def forward(self, x: SparseTensor) -> Tensor:
        return super().forward(x) / 0


def two_layers(in_channels: int) -> Backbone:
    return TwoLayers(in_channels)


def no_network(in_channels: int) -> nn.Module:
    return nn.Linear(in_channels, 8)


def no_channels(in_channels: int) -> Backbone:
    return Backbone()


class Cosine(Gate):
    """The more both paths agree, the more of the image; nothing to train."""

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        return (F.cosine_similarity(f2d, f3d, dim=1) + 1) / 2


class WithPlace(Gate):
    """By features and place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * dim + 64, 1)

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        return self.linear(torch.cat([f2d, f3d, code], dim=1)).sigmoid()[:, 0]


class Unbounded(WithPlace):
    """A mistake: a share beyond [0, 1]."""

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        return 3 * super().forward(f2d, f3d, code)


class Column(WithPlace):
    """A mistake: (K, 1) for (K,)."""

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        return super().forward(f2d, f3d, code)[:, None]


def cosine(dim: int) -> Gate:
    return Cosine()


def with_place(dim: int) -> Gate:
    return WithPlace(dim)


def no_gate(dim: int) -> nn.Module:
    return nn.Linear(dim, 1)
