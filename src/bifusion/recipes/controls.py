"""Controls of a comparison: rivals that see the same information another way, and a random tower.

Each differs from the recipe it is made of in one thing only. They are no rivals in a verdict.
"""

from __future__ import annotations

import dataclasses

from bifusion.config.run import Config
from bifusion.config.stages import StagePlan
from bifusion.models.parts import without_tower
from bifusion.models.towers.pixels import PixelsConfig
from bifusion.recipes.bifusion import bifusion_model, variant
from bifusion.recipes.oneformer3d import oneformer3d_small

FINE_VOXEL_M = 0.03


def only_2d(base: Config) -> Config:
    """α = 1: where a view sees a voxel, the decoder gets the 2D head's features alone (with s ramping
    as in `base`), and 3D features only where none does."""
    return _with_alpha(base, 1.0, "2d_only")


def gate_half(base: Config) -> Config:
    """α = 0.5 throughout, wherever a view sees a voxel and as soon as the 2D branch runs (with s ramping
    as in `base`): what is left of a gate that learns nothing."""
    return _with_alpha(base, 0.5, "gate_half")


def _with_alpha(base: Config, alpha: float, name: str) -> Config:
    stages = tuple(
        dataclasses.replace(stage, fixed_alpha=alpha, fixed_alpha_until=1.0)
        for stage in base.stages.stages
    )
    return variant(base, name, stages=StagePlan(stages))


def lifted_rgb(base: Config) -> Config:
    """The same pixels lifted in the same way, their RGB itself instead of a tower's tokens."""
    stages = tuple(
        dataclasses.replace(stage, trains=without_tower(stage.trains)) for stage in base.stages.stages
    )
    model = bifusion_model(base).with_tower(PixelsConfig())
    optim = dataclasses.replace(base.optim, rates=without_tower(base.optim.rates), tower_layer_decay=1.0)
    return variant(base, "lifted_rgb", model=model, stages=StagePlan(stages), optim=optim)


def random_tower(base: Config) -> Config:
    """The inverse control: the tower starts from random weights, whatever weights a comparison
    gives to the others; else it is treated as theirs."""
    model = bifusion_model(base)
    if model.tower is not None:
        model = model.with_tower(model.tower.with_weights(None))
    return variant(base, "random_tower", model=model)


def oneformer3d_small_fine() -> Config:
    """A control: `oneformer3d_small` at voxels of 3 cm, half the pattern period of the rooms.

    The same network, so in metres it looks less far than at 8 cm; a room has about three times the
    voxels, and a step takes as much longer.
    """
    base = oneformer3d_small()
    name = "oneformer3d_small_fine"
    data = dataclasses.replace(base.data, voxel_size_m=FINE_VOXEL_M)
    return dataclasses.replace(base, name=name, recipe=name, arm="fine_voxels", data=data)
