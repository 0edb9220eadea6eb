"""Keeps non-finite numbers away from the optimiser, and counts every one it meets.

A step with a non-finite activation, loss or gradient is dropped whole: no optimiser step is taken
and buffers that the forward pass has moved (BatchNorm's running statistics) are put back. Counted is
what came raw, before the guard acts. Three such steps in a row end the run: that is a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bifusion.types import Prediction

Phase = Literal["activation", "loss", "gradient"]


@dataclass
class NonFiniteEvent:
    """One optimiser step in which something was not finite."""

    phase: Phase
    where: list[str]
    """Such as "loss.mask_bce", "activation.f2d", "gradient.backbone", "matching.cost"."""
    scenes: list[str]

    def record(self) -> dict[str, Any]:
        """The event as a step's record shows it."""
        return {"kind": "nonfinite", **asdict(self), "action": "skip"}


def nonfinite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a NaN or infinity in them; one device synchronisation in all.

    Sums are cheap and carry both along; only where a sum is not finite, which a sum of huge finite
    numbers may be too, every element is looked at.
    """
    if not tensors:
        return []
    with torch.no_grad():
        sums = torch.stack([tensor.detach().float().sum() for tensor in tensors.values()])
        suspect = (~torch.isfinite(sums)).tolist()
        return [
            name
            for (name, tensor), bad in zip(tensors.items(), suspect, strict=True)
            if bad and not bool(torch.isfinite(tensor).all())
        ]


def border_activations(prediction: Prediction) -> dict[str, Tensor]:
    """Activations at the borders between the parts of a model, by name."""
    last = prediction.layers[-1]
    activations = {
        "superpoint_features": prediction.superpoint_features,
        "class_logits": torch.cat([logits.flatten() for logits in last.class_logits]),
        "mask_logits": torch.cat([logits.flatten() for logits in last.mask_logits]),
    }
    if prediction.semantic_logits is not None:
        activations["semantic_logits"] = torch.cat([x.flatten() for x in prediction.semantic_logits])
    if prediction.fusion is not None:
        names = ("f2d_in", "f3d_in", "f2d", "f3d", "alpha")
        activations |= {name: getattr(prediction.fusion, name) for name in names}
    return activations


class Guard:
    """Counts non-finite steps and restores the model's buffers after one.

    Use a step: `remember` before the forward pass; then `dropped` if the step met an event, or
    `passed`. Low-precision scalers overflow as a matter of course: `overflowed` counts those apart.
    """

    def __init__(self, model: nn.Module, patience: int = 3):
        self.patience = patience
        """This many non-finite steps in a row end the run."""
        self.raw_nonfinite = 0
        self.skipped = 0
        self.in_a_row = 0
        self.scaler_overflows = 0
        self._buffers = list(model.buffers())
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]

    @property
    def exhausted(self) -> bool:
        """Too many non-finite steps in a row: stop this run."""
        return self.in_a_row >= self.patience

    @torch.no_grad()
    def remember(self) -> None:
        """Keeps a copy of all buffers as they are now."""
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            kept.copy_(buffer)

    @torch.no_grad()
    def _restore(self) -> None:
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            buffer.copy_(kept)

    def passed(self) -> None:
        """The step was finite and was taken."""
        self.in_a_row = 0

    def dropped(self) -> None:
        """The step met a non-finite number and is not taken."""
        self._restore()
        self.raw_nonfinite += 1
        self.skipped += 1
        self.in_a_row += 1

    def overflowed(self) -> None:
        """The gradient scaler's factor was too large; it lowers it and the step is not taken."""
        self._restore()
        self.scaler_overflows += 1

    def state_dict(self) -> dict[str, int]:
        """Counts, for a checkpoint."""
        return {
            "raw_nonfinite": self.raw_nonfinite,
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "scaler_overflows": self.scaler_overflows,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes the counts of `state_dict`."""
        self.raw_nonfinite = state["raw_nonfinite"]
        self.skipped = state["skipped"]
        self.in_a_row = state["in_a_row"]
        self.scaler_overflows = state["scaler_overflows"]
