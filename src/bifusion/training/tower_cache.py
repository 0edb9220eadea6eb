"""Decides whether, and where, a run keeps the features of its frozen image tower."""

from __future__ import annotations

from pathlib import Path

import torch

from bifusion.config.run import TrainerConfig
from bifusion.models.model import Model
from bifusion.models.towers.view_cache import ViewCache

FOLDER = ".tower-cache"


def attach_view_cache(model: Model, trainer: TrainerConfig, run_dir: Path, device: torch.device) -> None:
    """Gives the model's image tower, if its maps can be kept, a cache where `trainer` asks for it.

    The tower uses it only while nothing of it is trained: in the stages before enhancement, for
    training and validation alike. Entries are found by content, so a view whose image were augmented
    would be computed like any other.
    """
    wanted = trainer.tower_cache == "on" or (trainer.tower_cache == "auto" and device.type == "cpu")
    if not wanted:
        return
    folder = trainer.tower_cache_dir or run_dir.absolute().parent / FOLDER
    model.keep_views(ViewCache(folder, int(trainer.tower_cache_gb * 2**30)))
