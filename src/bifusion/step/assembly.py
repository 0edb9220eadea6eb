"""A stepper from a configuration: model, optimiser, loss and guard, wired as a run has them."""

from __future__ import annotations

from lightning_fabric import Fabric

from bifusion.config.optim import make_optimizer
from bifusion.config.run import Config
from bifusion.losses.criterion import Criterion
from bifusion.models.compiled import compile_blocks
from bifusion.models.model import Model
from bifusion.models.recompute import recompute
from bifusion.step.clipping import Clipping
from bifusion.step.guard import Guard
from bifusion.step.step import Stepper


def make_stepper(config: Config, fabric: Fabric, model: Model) -> Stepper:
    """Takes steps of `model`, which it moves to the fabric's device."""
    recompute(model, config.trainer.recompute)
    groups = model.parameter_groups()
    fused = config.trainer.precision != "16-mixed"
    wrapped_model, wrapped_optimizer = fabric.setup(
        model, make_optimizer(groups, config.optim, fused=fused)
    )
    compile_blocks(model, config.trainer.compile, fabric.device)
    return Stepper(
        fabric,
        wrapped_model,
        wrapped_optimizer,
        Criterion(config.criterion, config.labels),
        groups,
        Guard(config.trainer.guard),
        Clipping(config.optim),
        shared_norms=config.trainer.sync_batch_norm,
        matmul=config.trainer.matmul,
    )
