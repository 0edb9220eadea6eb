"""A 3D network and a gate of one's own."""

import functools
import itertools

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


class FrozenStem(TwoLayers):
    """A first layer that stays as it is, as a pretrained one might."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels)
        self.first.requires_grad_(False)


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


class InPlace(TwoLayers):
    """A mistake: the features that it is given belong to the batch."""

    def forward(self, x: SparseTensor) -> Tensor:
        x.feats.mul_(0.5)
        return super().forward(x)


class Shifting(TwoLayers):
    """A mistake: so do the coordinates."""

    def forward(self, x: SparseTensor) -> Tensor:
        x.coords[:, 1:] += 1
        return super().forward(x)


class Dropping(TwoLayers):
    """A mistake: dropout in evaluation too."""

    def forward(self, x: SparseTensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5)


class Remembering(TwoLayers):
    """A mistake: adds the mean of the call before."""

    mean: Tensor | int = 0

    def forward(self, x: SparseTensor) -> Tensor:
        features = super().forward(x) + self.mean
        self.mean = features.mean(dim=0)
        return features


class Late(TwoLayers):
    """A mistake: a layer that no optimiser and no checkpoint knows of."""

    def forward(self, x: SparseTensor) -> Tensor:
        if not hasattr(self, "last"):
            self.last = nn.Linear(self.out_channels, self.out_channels)
        return self.last(super().forward(x))


class Half(TwoLayers):
    """A mistake: another type than what takes it."""

    def forward(self, x: SparseTensor) -> Tensor:
        return super().forward(x).half()


class Sparse(TwoLayers):
    """A mistake: no tensor."""

    def forward(self, x: SparseTensor) -> Tensor:
        return self.first(x)  # type: ignore[return-value]


class Reading(TwoLayers):
    """Reads values of a tensor as it is made."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels)
        self.rates = torch.linspace(0, 0.1, 2).tolist()


def two_layers(in_channels: int) -> Backbone:
    return TwoLayers(in_channels)


def frozen_stem(in_channels: int) -> Backbone:
    return FrozenStem(in_channels)


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


class Whole(WithPlace):
    """A mistake: a share that is no number with a fraction."""

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        return super().forward(f2d, f3d, code) > 0.5


class Taking(WithPlace):
    """A mistake: changes the path that is mixed after it."""

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        return super().forward(f2d.mul_(0), f3d, code)


class Chance(WithPlace):
    """A mistake: random numbers in evaluation."""

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        return F.dropout(super().forward(f2d, f3d, code), 0.5) / 2


class WithNorm(Gate):
    """By features that are normalised, of a norm that takes fewer than two voxels."""

    def __init__(self, dim: int, norm: type[nn.Module] = BatchNorm) -> None:
        super().__init__()
        self.norm, self.drop, self.linear = norm(dim), nn.Dropout(0.2), nn.Linear(dim, 1)

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        return self.linear(self.drop(self.norm(f2d - f3d))).sigmoid()[:, 0]


class OfMany(WithNorm):
    """A mistake: torch's norm takes no single voxel in training."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, nn.BatchNorm1d)


class Running(Gate):
    """A mistake: a running mean that is no number after a batch without voxels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * (f2d - f3d).mean().detach()
        return ((f2d - f3d).mean(dim=1) - self.mean).sigmoid()


class Undefined(Cosine):
    """A mistake: 0 / 0."""

    def forward(self, f2d: Tensor, f3d: Tensor, code: Tensor) -> Tensor:
        return super().forward(f2d, f3d, code) * 0 / 0


def cosine(dim: int) -> Gate:
    return Cosine()


def with_place(dim: int) -> Gate:
    return WithPlace(dim)


def no_gate(dim: int) -> nn.Module:
    return nn.Linear(dim, 1)


@functools.cache
def one_network(in_channels: int) -> Backbone:
    """A mistake: the same at every call."""
    return TwoLayers(in_channels)


@functools.cache
def one_gate(dim: int) -> Gate:
    """A mistake: the same at every call."""
    return WithPlace(dim)


_sizes = itertools.count(4)


def growing(in_channels: int) -> Backbone:
    """A mistake: another size at every call."""
    return TwoLayers(in_channels, next(_sizes))


def no_blocks(in_channels: int) -> Backbone:
    """A mistake: names of blocks."""
    network = TwoLayers(in_channels)
    network.recomputable = lambda: ["first"]  # type: ignore[method-assign,list-item]
    return network


def reading(in_channels: int) -> Backbone:
    return Reading(in_channels)


def lazy_gate(dim: int) -> Gate:
    """A mistake: a layer without a size."""
    gate = WithPlace(dim)
    gate.linear = nn.LazyLinear(1)
    return gate
