"""Checkpoints: weights as safetensors, training state as plain tensors and numbers, written durably.

`checkpoints/` holds one folder a saved step (`model.safetensors`, `training.pt`, `config.json`);
`last` and `best` are links to them, switched in one atomic rename after everything is on disk.
Nothing is unpickled when loading.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bifusion.config import Config, build_model, load_config, save_config
from bifusion.types import InputError

WEIGHTS = "model.safetensors"
TRAINING_STATE = "training.pt"
CONFIG = "config.json"
TRAIN_AGAIN = "copy the checkpoint again, or train again"


def save_checkpoint(
    checkpoints: Path,
    model: nn.Module,
    config: Config,
    training_state: dict[str, Any] | None,
    *,
    step: int,
    links: Iterable[str],
) -> Path:
    """Writes a checkpoint folder and points `links` ("last", "best") at it.

    It is written beside, flushed to disk and renamed, so a link never points at half a checkpoint;
    folders that no link points at any more are removed. `training_state` holds tensors, numbers,
    strings, lists and dicts only; None where there is nothing to resume. Returns the folder.
    """
    beside = checkpoints / ".writing"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    weights = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    save_file(weights, beside / WEIGHTS)
    if training_state is not None:
        torch.save(training_state, beside / TRAINING_STATE)
    save_config(config, beside / CONFIG)
    for path in (*beside.iterdir(), beside):
        _flush(path)
    folder = _free_name(checkpoints, step)
    os.rename(beside, folder)
    for link in links:
        _point(checkpoints / link, folder)
    _flush(checkpoints)
    _remove_unlinked(checkpoints)
    return folder


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder meant by a run folder (its last one), a checkpoint folder or its weights."""
    path = Path(path)
    for folder in (path, path.parent, path / "checkpoints" / "last"):
        if (folder / WEIGHTS).is_file():
            return folder
    raise InputError(
        f"{path}: no checkpoint here; expected a run folder with checkpoints/last, "
        f"or a checkpoint folder with {WEIGHTS} and {CONFIG}"
    )


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, Config]:
    """Model in evaluation mode on `device`, and its configuration, from a run or checkpoint folder.

    Raises InputError if there is no checkpoint or its tensors are not those of its configuration.
    """
    folder = find_checkpoint(path)
    config = load_config(folder / CONFIG)
    model = build_model(config, load_pretrained=False)
    load_weights(model, folder)
    return model.to(device).eval(), config


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Fills `model` from a checkpoint folder.

    Raises InputError, naming what matched and what did not, for a checkpoint of another model.
    """
    path = checkpoint / WEIGHTS
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy or train it again") from error
    check_same_tensors(model.state_dict(), stored, path)
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
        f"missing: {_some(missing)}; unknown: {_some(unknown)}; other shapes: {_some(reshaped)}. "
        "Use the checkpoint with the recipe it was trained with"
    )


def load_training_state(checkpoint: Path) -> dict[str, Any]:
    """The training state saved with a checkpoint, on the CPU; InputError if it cannot be read."""
    path = checkpoint / TRAINING_STATE
    if not path.is_file():
        raise InputError(f"{path}: no such file; this checkpoint can be evaluated but not resumed")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); {TRAIN_AGAIN}") from error
    if not isinstance(state, dict) or "time" not in state:
        raise InputError(f"{path}: holds no training state of ours; {TRAIN_AGAIN}")
    return state


def trained_epochs(checkpoint: Path, config: Config) -> float:
    """Epochs (fractional) after which a checkpoint was saved.

    A checkpoint folder without training state, an imported one, counts as one of the end of its run.
    """
    if (checkpoint / TRAINING_STATE).is_file():
        return load_training_state(checkpoint)["time"]
    return config.trainer.epochs


def _some(names: list[str], limit: int = 5) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _free_name(checkpoints: Path, step: int) -> Path:
    """A folder name for the step that is not taken: a step may be saved again after a resume."""
    folder, again = checkpoints / f"step-{step:08d}", 1
    while folder.exists():
        again += 1
        folder = checkpoints / f"step-{step:08d}-{again}"
    return folder


def _point(link: Path, folder: Path) -> None:
    beside = link.with_name(f".{link.name}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(folder.name)
    os.replace(beside, link)


def _remove_unlinked(checkpoints: Path) -> None:
    linked = {path.resolve() for path in checkpoints.iterdir() if path.is_symlink()}
    for path in checkpoints.glob("step-*"):
        if path.resolve() not in linked:
            shutil.rmtree(path)


def _flush(path: Path) -> None:
    """Forces a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
