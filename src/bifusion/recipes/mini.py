"""Recipes between tiny and small, for hundreds of runs that have to learn something.

The tiny ones end before they have learnt much (mIoU 0.08 after 80 steps); hundreds of runs of the small
ones take days.
"""

from __future__ import annotations

import dataclasses

from bifusion.config.run import Config
from bifusion.recipes.bifusion import baseline, bifusion_model, bifusion_small
from bifusion.recipes.oneformer3d import oneformer3d_small
from bifusion.recipes.tiny import half_widths

VOXEL_SIZE_M = 0.12
IMAGE_SIZE = 160
VIEWS = 3
LR = 3e-3
"""Three times that of the small recipes: fewer steps."""
WARMUP_STEPS = 30
EPOCHS = 30
EVALUATIONS = 6
"""Validations of a run, to see when a model has begun to say one class for all."""


def bifusion_mini() -> Config:
    """BiFusion between tiny and small: half the widths of `bifusion_small`, 30 epochs.

    Voxels of 12 cm, images of 160 px; its image tower is that of `bifusion_small`, whose weights it
    takes. On the rooms of RECIPES.md, "Over which learning rates each arm trains", it reaches mIoU
    0.40 ± 0.05 and AP 0.34 ± 0.04 after 600 steps at 0.72 of its rate (three seeds, in that section's
    command), and mIoU 0.36 ± 0.03 with the views withheld: images this small add little.
    """
    small = bifusion_small()
    model = half_widths(bifusion_model(small))
    data = dataclasses.replace(
        small.data, voxel_size_m=VOXEL_SIZE_M, image_size=IMAGE_SIZE, max_views=VIEWS
    )
    every = EPOCHS // EVALUATIONS
    trainer = dataclasses.replace(
        small.trainer, epochs=EPOCHS, eval_every=every, save_epochs=EPOCHS, evaluation_views=VIEWS
    )
    optim = dataclasses.replace(small.optim, lr=LR, warmup_steps=WARMUP_STEPS)
    name = "bifusion_mini"
    return dataclasses.replace(
        small, name=name, recipe=name, model=model, data=data, trainer=trainer, optim=optim
    )


def oneformer3d_mini() -> Config:
    """OneFormer3D in a minute.

    On the 3D network, data and optimiser of `bifusion_mini`, with the losses of `oneformer3d_small`.
    mIoU 0.30, AP 0.37 on six rooms after 600 steps, in two minutes of one core (seed 0, n = 1), by
    `bifusion compare oneformer3d_mini --sweep lr --grid lr=1 condition=plain` on RECIPES.md's rooms.
    """
    name = "oneformer3d_mini"
    stages = oneformer3d_small().stages
    return dataclasses.replace(baseline(bifusion_mini()), name=name, recipe=name, stages=stages)
