"""The last healthy state of a run, in memory: what a rollback goes back to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric.plugins.precision import Precision
from torch import Tensor, nn


@dataclass(frozen=True)
class HealthyState:
    """Weights, buffers, optimiser and scaler as they were before step `step`, on the CPU."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[int, dict[str, Any]]
    """Moments by parameter, as numbered in the optimiser's `state_dict`; rates are set every step."""
    precision: dict[str, Any]
    """State of the gradient scaler; empty without one."""

    @classmethod
    def capture(
        cls, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision, step: int
    ) -> HealthyState:
        """A copy of the present state, before step `step`."""
        present = _present(model, optimizer, precision)
        return cls(step=step, **{name: _copy(part) for name, part in present.items()})

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision) -> None:
        """Gives model, optimiser and scaler this state again, which stays untouched by what follows."""
        model.load_state_dict(self.model)
        # The optimiser would take tensors over as they are and then write into them.
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": _copy(self.optimizer), "param_groups": groups})
        precision.load_state_dict(_copy(self.precision))

    def is_present(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision
    ) -> bool:
        """The state given is this one, to the bit."""
        mine = {"model": self.model, "optimizer": self.optimizer, "precision": self.precision}
        return _same(mine, _present(model, optimizer, precision))


def _present(model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict()["state"],
        "precision": precision.state_dict(),
    }


def _copy(value: Any) -> Any:
    """`value` with its tensors copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value


def _same(first: Any, second: Any) -> bool:
    """Equal to the bit, wherever the tensors lie."""
    if isinstance(first, Tensor):
        return torch.equal(first, second.to(first.device))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    return first == second
