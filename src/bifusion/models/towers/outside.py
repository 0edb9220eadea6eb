"""An image tower from outside the package, by the name of the function that makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bifusion.errors import InputError
from bifusion.models.outside import check_channels, outside_part, returned
from bifusion.models.parts import check_groups, is_of_tower
from bifusion.models.towers.tower import FIELD, ImageTower, TowerConfig

FUNCTION = f"{FIELD}.function"


@dataclass
class OutsideTowerConfig(TowerConfig):
    """A tower that a function of somebody else's package makes."""

    kind: ClassVar[str] = "outside"

    function: str = ""
    """"module:function", of a package that you have named as trusted (`plugins.py`): takes `pretrained`,
    returns an `ImageTower`."""
    pretrained: str | None = None
    """What the function gets: a file or tag; None where no weights are to be read, as a checkpoint will
    bring them."""

    def build(self) -> ImageTower:
        return outside_tower(self.function, self.pretrained)


def outside_tower(name: str, pretrained: str | None) -> ImageTower:
    """The tower that the function `name`, "module:function", makes of `pretrained`. Raises InputError
    where it makes none."""
    tower = outside_part(name, FUNCTION, ImageTower, pretrained)
    where = returned(name, FUNCTION, tower)
    check_channels(tower, where)
    groups = tower.parameter_groups()
    foreign = [group for group in groups if not is_of_tower(group)]
    if foreign:
        raise InputError(f"{where} with parameter groups {', '.join(foreign)}; expected tower.NAME")
    check_groups(tower, groups)
    return tower
