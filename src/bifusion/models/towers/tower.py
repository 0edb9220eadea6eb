"""What an image tower answers, ours or one from outside the package, and what describes one.

Each kind of tower lies in a file of its own with the configuration that makes it; `kinds.py` lists them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.models.towers.view_cache import ViewCache
from bifusion.models.towers.weight_files import check_file
from bifusion.types import BatchView

FIELD = "model.tower"
DEPTH_UNIT_M = 5.0
"""Depth enters a tower as metres / 5, so that a room's depths lie in about [0, 1]; 0 where none."""


class ImageTower(nn.Module):
    """Makes feature maps of the views; base of all towers.

    A view's map must depend on that view alone, in training too (no statistics of a batch): a tower that
    no stage trains runs without gradient, but in training mode as the rest does.
    """

    out_channels: int
    """Channels D2 of its maps."""

    def encode_views(self, views: Sequence[BatchView]) -> list[Tensor]:
        """One map (h, w, D2) a view, which covers the view's whole image, row 0 at its top.

        `image` is (3, H, W) RGB in [0, 1], both sides multiples of `data.patch_size`; `image_depth_m`
        (1, H, W) metres, 0 where nothing was measured.
        """
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All its parameters, each in one group "tower.NAME". Rates that decay with depth know
        "tower.block0", "tower.block1" … as the blocks from the input on, and take others as below."""
        raise NotImplementedError

    def recomputable(self) -> list[nn.Module]:
        """Its blocks, where a backward pass can compute them again (`models/recompute.py`): each a
        function of the tensors it is called with, its weights and random numbers. None: it keeps all."""
        return []

    def describe(self) -> str:
        """One line for run descriptions: what it is, and where its weights come from."""
        raise NotImplementedError

    def keep_views(self, cache: ViewCache) -> None:
        """Looks maps up in `cache` while nothing of it trains, where that gives what computing would;
        a tower that does not say so keeps none."""


@dataclass
class TowerConfig(ABC):
    """What an image tower is built from; it answers for its kind.

    A kind that takes weights has a field `pretrained`: a file, a tag, or None.
    """

    kind: ClassVar[str]
    """What a stored configuration calls it."""

    @abstractmethod
    def build(self) -> ImageTower:
        """The tower, drawn from the global generator or read. InputError: weights that cannot be had, or
        do not fit; on the meta device nothing is read."""

    def with_weights(self, pretrained: str | None) -> TowerConfig:
        """The same with the weights of another file, or (None) with none to read; itself where it takes
        no weights."""
        return dataclasses.replace(self, pretrained=pretrained) if self.takes_weights else self

    @property
    def takes_weights(self) -> bool:
        """It has weights that a file may bring."""
        return any(field.name == "pretrained" for field in dataclasses.fields(self))

    @property
    def reads(self) -> str | None:
        """The file or tag that its weights come from; None: none is read."""
        return getattr(self, "pretrained", None)

    def check_weights(self) -> None:
        """InputError for a file that is not there; nothing is downloaded."""
        check_file(self.reads)

    @property
    def patch(self) -> int | None:
        """What both sides of an image must be multiples of, in pixels; None where any will do."""
        return None


def check_maps(maps: Sequence[Tensor], views: Sequence[BatchView], tower: ImageTower) -> None:
    """InputError, naming the tower, unless there is one (h, w, out_channels) map a view, none of them
    upright of an image that is broad, or the other way round."""
    shapes = [tuple(features.shape) for features in maps]
    if len(shapes) != len(views) or any(len(s) != 3 or s[2] != tower.out_channels for s in shapes):
        raise InputError(
            f"{FIELD}: {tower.describe()!r} made maps of shapes {shapes} of {len(views)} views; "
            f"expected one a view, each (h, w, {tower.out_channels})"
        )
    for view, shape in zip(views, shapes, strict=True):
        height, width = view.image.shape[-2:]
        if (height - width) * (shape[0] - shape[1]) < 0:
            raise InputError(
                f"{FIELD}: {tower.describe()!r} made a map of {shape[0]} rows and {shape[1]} columns of "
                f"an image of {height} rows and {width} columns; expected (h, w, {tower.out_channels}), "
                "rows first"
            )
