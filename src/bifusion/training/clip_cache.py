"""Decides whether, and where, a run keeps the features of its frozen image tower."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bifusion.config import TrainerConfig
from bifusion.models.bifusion import BiFusion
from bifusion.models.view_cache import ViewCache
from bifusion.types import InputError

FOLDER = ".clip-cache"


def attach_view_cache(
    model: nn.Module, trainer: TrainerConfig, run_dir: Path, device: torch.device
) -> None:
    """Gives the model's tower, if it has one, a cache where `trainer` asks for it.

    The tower uses it only while nothing of it is trained: in the stages before enhancement, for
    training and validation alike. Entries are found by content, so a view whose image were augmented
    would be computed like any other.

    Raises:
        InputError: a size that is not positive.
    """
    wanted = trainer.clip_cache == "on" or (trainer.clip_cache == "auto" and device.type == "cpu")
    if not wanted or not isinstance(model, BiFusion) or model.clip is None:
        return
    if trainer.clip_cache_gb <= 0:
        raise InputError(
            f"trainer.clip_cache_gb is {trainer.clip_cache_gb}; expected more than 0, or "
            "--trainer.clip-cache off"
        )
    folder = trainer.clip_cache_dir or run_dir.absolute().parent / FOLDER
    model.clip.cache = ViewCache(folder, int(trainer.clip_cache_gb * 2**30))
