"""The optimiser: AdamW over the model's named parameter groups, rates computed from the step alone.

Nothing here keeps state besides AdamW's own moments: the rate of a group at a step is
lr · rate of its group · stage factor · schedule(step), so a resumed run repeats exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import nn

from bifusion.bounds import AtMost, Count, Decay, NotNegative, PositiveFloat, PositiveInt, Share
from bifusion.config.stages import StageState, find_pattern
from bifusion.models.parts import is_of_tower, tower_block

Schedule = Literal["poly", "cosine", "one_cycle", "constant"]


@dataclass
class OptimConfig:
    """AdamW and its schedule; rates of single groups are relative to `lr`."""

    lr: PositiveFloat = 1e-4
    """Largest learning rate of a group whose rate is 1."""
    weight_decay: NotNegative = 0.05
    """Decoupled; biases, norms and other vectors are decayed only with `decay_vectors`."""
    decay_vectors: bool = False
    """As the official trainings of OneFormer3D and Mask3D, which decay everything."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """AdamW's decay of the averages of gradients and of their squares."""
    eps: PositiveFloat = 1e-8
    """AdamW's, added to the root of the second moment."""
    clip_norm: PositiveFloat = 10.0
    """Largest total gradient norm; larger gradients are scaled down to it."""
    clip_mode: Literal["fixed", "adaptive", "off"] = "fixed"
    """fixed: at `clip_norm`; adaptive: at what is usual in this run (`clipping.py`), `clip_norm` holds
    only until that is known; off: gradients are taken as they are."""
    clip_window: PositiveInt = 100
    """adaptive: taken steps that say what is usual."""
    clip_history: Annotated[PositiveInt, AtMost("clip_window")] = 10
    """adaptive: fewer taken steps than this say nothing yet."""
    clip_deviations: NotNegative = 3.0
    """adaptive: robust standard deviations above the median that are still usual; of norms that
    scatter normally one in 700 is clipped."""
    schedule: Schedule = "poly"
    """How the rate falls over the run; constant: it does not."""
    poly_power: NotNegative = 0.9
    """poly: power of the share of the run that is still to come."""
    final_factor: Share = 0.0
    """The schedule ends at this fraction of the rate (poly, cosine, one_cycle)."""
    one_cycle_rise: Share = 0.3
    """Fraction of the run in which a one_cycle schedule rises, from 1/25 of the rate."""
    warmup_steps: Count = 0
    """The rate rises linearly from 0 over this many steps."""
    rates: dict[str, NotNegative] = field(default_factory=dict)
    """Pattern of parameter group names -> factor on their rate; the last match counts."""
    tower_layer_decay: NotNegative = 1.0
    """Factor on the rate of the image tower per block of depth below its last one; patch and
    position embeddings count as one below block 0."""


def schedule_factor(config: OptimConfig, step: int, total_steps: int) -> float:
    """Factor on all rates at optimiser step `step`, 0 … total_steps - 1.

    "poly" is (1 - progress)^power as in OneFormer3D's `PolyLR`, by step instead of by epoch.
    """
    progress = min(step / max(total_steps, 1), 1.0)
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps > 0 else 1.0
    floor = config.final_factor
    if config.schedule == "poly":
        shape = floor + (1 - floor) * (1 - progress) ** config.poly_power
    elif config.schedule == "cosine":
        shape = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "one_cycle":
        shape = _one_cycle(progress, config.one_cycle_rise, floor)
    else:
        shape = 1.0
    return warm * shape


def _one_cycle(progress: float, rise: float, floor: float) -> float:
    """Cosine from 1/25 up to 1, then cosine down to `floor` (Smith's 1cycle, as in torch)."""
    start, end, part = 1 / 25, 1.0, progress / rise if rise > 0 else 1.0
    if progress >= rise:
        start, end, part = 1.0, floor, (progress - rise) / (1 - rise)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


def group_rates(config: OptimConfig, groups: list[str]) -> dict[str, float]:
    """Rate of every parameter group relative to `lr`, with the image tower's decay by depth."""
    last = max((block for g in groups if (block := tower_block(g)) is not None), default=0)
    rates = {}
    for group in groups:
        rate = find_pattern(config.rates, group)
        rates[group] = 1.0 if rate is None else rate
        if is_of_tower(group):
            block = tower_block(group)
            rates[group] *= config.tower_layer_decay ** (last - (-1 if block is None else block))
    return rates


def make_optimizer(
    groups: dict[str, list[nn.Parameter]], config: OptimConfig, *, fused: bool = False
) -> torch.optim.AdamW:
    """AdamW over the model's parameter groups, each split in a decayed and an undecayed half.

    Every optimiser group carries the model group's name as "name". Rates are set by `set_rates`.
    `fused` updates each parameter in one pass over it instead of ten, which on a CPU is four times as
    fast; it does not go with a gradient scaler, whose work it would do itself.
    """
    parts = []
    for name, parameters in groups.items():
        decayed = [p for p in parameters if p.ndim > 1]
        undecayed = [p for p in parameters if p.ndim <= 1]
        of_vectors = config.weight_decay if config.decay_vectors else 0.0
        halves = ((decayed, config.weight_decay), (undecayed, of_vectors))
        parts += [{"params": ps, "weight_decay": decay, "name": name} for ps, decay in halves if ps]
    return torch.optim.AdamW(parts, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def set_rates(
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    base_rates: dict[str, float],
    state: StageState,
    step: int,
    total_steps: int,
    *,
    ramp: float = 1.0,
) -> dict[str, float]:
    """Sets the learning rate of every group for this step and returns them by group name.

    `ramp` is a factor on all of them, below 1 for a while after a rollback.
    """
    factor = config.lr * schedule_factor(config, step, total_steps) * ramp
    rates = {name: factor * base * state.lr_factor(name) for name, base in base_rates.items()}
    for part in optimizer.param_groups:
        part["lr"] = rates[part["name"]]
    return rates


def may_train(groups: dict[str, list[nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
    """What whoever made a model, just built, did not freeze; for `freeze_outside_stage`."""
    return {name: [p for p in parameters if p.requires_grad] for name, parameters in groups.items()}


def freeze_outside_stage(groups: dict[str, list[nn.Parameter]], state: StageState) -> None:
    """Lets only the stage's groups require gradients, of `groups` that `may_train`.

    A frozen parameter has no gradient at all, so that AdamW passes it by: neither its moments nor
    weight decay touch it.
    """
    for name, parameters in groups.items():
        trains = state.trains(name)
        for parameter in parameters:
            parameter.requires_grad_(trains)
            if not trains:
                parameter.grad = None
