"""A 3D branch that starts from a trained one (`train --init`)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from bifusion.errors import InputError, listing_lines
from bifusion.official.import_checkpoint import read_checkpoint

BACKBONE = "unet."
UNUSED = "unet.final."
"""Res16UNet34C's last layer, which no model uses and whose width differs between official files."""
_LISTED = 8


def load_backbone(model: nn.Module, path: Path) -> None:
    """Fills the sparse U-Net of `model` from the checkpoint in `path`; all else stays as it is.

    Args:
        model: any of the models; its U-Net is `model.unet`.
        path: run or checkpoint folder of ours, its model.safetensors, a published checkpoint, or
            hf://user/name.
    Raises:
        InputError: the file cannot be read, or holds another U-Net; lists what differs.
    """
    imported = read_checkpoint(path)
    found = _backbone(imported.conversion.state)
    wanted = _backbone(model.state_dict())
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not part of this model" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        raise InputError(
            f"trainer.init: {path} ({imported.kind}) has another 3D network than this model:"
            f"{listing_lines(problems, _LISTED)}\n"
            "give a checkpoint of the same U-Net, or set --model.unet.* to its sizes"
        )
    model.load_state_dict({**model.state_dict(), **found})


def _backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(BACKBONE) and not name.startswith(UNUSED)
    }
