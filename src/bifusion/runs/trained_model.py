"""A model with the weights that a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from bifusion.config.run import Config, load_config
from bifusion.errors import InputError, listing
from bifusion.models.build import build_bare, build_model
from bifusion.runs.check_config import check_config
from bifusion.runs.checkpoint import CONFIG, NAMED, WEIGHTS, find_checkpoint, load_checked_weights


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, Config]:
    """Model in evaluation mode on `device`, and its configuration, from a run or checkpoint folder.

    Raises InputError if there is no checkpoint, its configuration makes no run, or its tensors are not
    those of its configuration.
    """
    folder = find_checkpoint(path)
    config = load_config(folder / CONFIG)
    check_config(config)
    stored = load_checked_weights(folder)
    model = build_bare(config.model, config.seed, config.labels)
    wanted = model.state_dict()
    check_same_tensors(wanted, stored, folder / WEIGHTS)
    # copies, as the file is only mapped: whoever overwrites it would change the model
    own = {name: t.to(device, wanted[name].dtype, copy=True) for name, t in stored.items()}
    # of a bare network of ours each tensor is kept once, that of the file
    model.load_state_dict(own, assign=not config.model.outside_parts)
    if not _is_whole(model):  # it has tensors besides, of which the meta device gave but the shapes
        model = build_model(config.model, config.seed, config.labels, load_pretrained=False)
        model.load_state_dict(own)
    return model.to(device).eval(), config


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Fills `model` from a checkpoint folder.

    Raises InputError for a damaged file and, naming what matched and what did not, for a checkpoint of
    another model.
    """
    stored = load_checked_weights(checkpoint)
    check_same_tensors(model.state_dict(), stored, checkpoint / WEIGHTS)
    model.load_state_dict(stored)


def check_same_tensors(wanted: dict[str, Tensor], stored: dict[str, Tensor], path: Path) -> None:
    """InputError unless both have the same names and shapes."""
    missing = [name for name in wanted if name not in stored]
    unknown = [name for name in stored if name not in wanted]
    reshaped = [
        f"{name} {tuple(stored[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in stored and stored[name].shape != tensor.shape
    ]
    if not (missing or unknown or reshaped):
        return
    matched = len(wanted) - len(missing) - len(reshaped)
    raise InputError(
        f"{path} is a checkpoint of another model: {matched} of {len(wanted)} tensors match; "
        f"missing: {listing(missing, NAMED) or 'none'}; unknown: {listing(unknown, NAMED) or 'none'}; "
        f"other shapes: {listing(reshaped, NAMED) or 'none'}. "
        "Use the checkpoint with the recipe it was trained with"
    )


def _is_whole(model: nn.Module) -> bool:
    """Whether nothing of it is on the meta device."""
    return not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
