"""An image tower of one's own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bifusion.models.towers.tower import ImageTower
from bifusion.types import BatchView


class Stripes(ImageTower):
    """Two convolutions of stride 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.embed = nn.Conv2d(3, channels, 4, stride=4)
        self.block = nn.Conv2d(channels, channels, 4, stride=4)

    def encode_views(self, views: Sequence[BatchView]) -> list[Tensor]:
        return [self.block(self.embed(view.image[None]).relu())[0].permute(1, 2, 0) for view in views]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            "tower.embed": list(self.embed.parameters()),
            "tower.block0": list(self.block.parameters()),
        }

    def describe(self) -> str:
        return "stripes, from scratch"


def stripes(pretrained: str | None) -> ImageTower:
    tower = Stripes(8)
    if pretrained is not None:
        tower.load_state_dict(torch.load(pretrained, weights_only=True))
    return tower


class Rated(Stripes):
    """Reads values of a tensor as it is made, as towers with drop path rates do."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.rates = torch.linspace(0, 0.1, 2).tolist()


class Forgetful(Stripes):
    """A mistake: a parameter that no group has."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"tower.embed": list(self.embed.parameters())}


class OddName(Stripes):
    """A mistake: a group that is not called a tower's."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"stripes": list(self.parameters())}


class WrongMaps(Stripes):
    """A mistake: channels first."""

    def encode_views(self, views: Sequence[BatchView]) -> list[Tensor]:
        return [features.permute(2, 0, 1) for features in super().encode_views(views)]


def rated(pretrained: str | None) -> ImageTower:
    return Rated(8)


def forgetful(pretrained: str | None) -> ImageTower:
    return Forgetful(8)


def odd_name(pretrained: str | None) -> ImageTower:
    return OddName(8)


def wrong_maps(pretrained: str | None) -> ImageTower:
    return WrongMaps(8)


class Normed(Stripes):
    """A mistake: statistics of a batch."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.block = nn.Sequential(self.block, nn.BatchNorm2d(channels))


class Dropping(Stripes):
    """A mistake: random numbers, though nothing is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.block = nn.Sequential(self.block, nn.Dropout(0.5))


class Columns(Stripes):
    """A mistake: columns first."""

    def encode_views(self, views: Sequence[BatchView]) -> list[Tensor]:
        return [features.transpose(0, 1) for features in super().encode_views(views)]


class Still(Normed):
    """Put right: BatchNorm keeps the statistics it came with."""

    def train(self, mode: bool = True) -> "Still":
        return super().train(False)


def no_tower(pretrained: str | None) -> nn.Module:
    return nn.Identity()
