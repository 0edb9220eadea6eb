"""The loop of a pretraining: AdamW with warm-up and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig

START_LOG_SCALE = math.log(1 / 0.07)
MAX_LOG_SCALE = math.log(100)
"""CLIP's own start of, and bound on, the learned inverse temperature."""


def optimise(
    model: nn.Module,
    loss_of: Callable[[int], Tensor | None],
    config: TowerPretrainConfig,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Lowers `loss_of(step)` for `config.steps` steps; a step whose loss is None is passed over."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    model.train()
    for step in range(config.steps):
        warm = min(1.0, (step + 1) / config.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        loss = loss_of(step)
        if loss is None:
            continue
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress:
            progress(step + 1, config.steps)
