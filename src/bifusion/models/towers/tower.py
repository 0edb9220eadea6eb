"""What an image tower answers, ours or one from outside the package."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bifusion import plugins
from bifusion.errors import InputError
from bifusion.models.parts import check_groups, is_of_tower
from bifusion.types import BatchView

FIELD = "model.image_features"


class ImageTower(nn.Module):
    """Makes feature maps of the views; base of all towers.

    A view's map must depend on that view alone, in training too (no BatchNorm): a tower that no stage
    trains runs without gradient, but in training mode as the rest does.
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

    def describe(self) -> str:
        """One line for run descriptions: what it is, and where its weights come from."""
        raise NotImplementedError


def outside_tower(name: str, pretrained: str | None) -> ImageTower:
    """The tower that the function `name`, "module:function", makes of `pretrained`
    (`model.tower.pretrained`): a file or tag, or None where no weights are to be read, as a checkpoint
    will bring them. Raises InputError where it makes none."""
    tower = plugins.load(name, FIELD)(pretrained)
    where = f"{FIELD}: {name} returned a {type(tower).__name__}"
    if not isinstance(tower, ImageTower):
        raise InputError(f"{where}, expected a bifusion.models.towers.tower.ImageTower")
    channels = getattr(tower, "out_channels", None)
    if not isinstance(channels, int) or channels < 1:
        raise InputError(f"{where} whose out_channels is {channels!r}, expected a number above 0")
    groups = tower.parameter_groups()
    foreign = [group for group in groups if not is_of_tower(group)]
    if foreign:
        raise InputError(f"{where} with parameter groups {', '.join(foreign)}; expected tower.NAME")
    check_groups(tower, groups)
    return tower


def check_maps(maps: Sequence[Tensor], views: Sequence[BatchView], tower: ImageTower) -> None:
    """InputError, naming the tower, unless there is one (h, w, out_channels) map a view."""
    shapes = [tuple(features.shape) for features in maps]
    if len(shapes) != len(views) or any(len(s) != 3 or s[2] != tower.out_channels for s in shapes):
        raise InputError(
            f"{FIELD}: {tower.describe()!r} made maps of shapes {shapes} of {len(views)} views; "
            f"expected one a view, each (h, w, {tower.out_channels})"
        )
