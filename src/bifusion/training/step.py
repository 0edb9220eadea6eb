"""One optimiser step: forward, loss, finite check, backward, finite check, clip, step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn

from bifusion.losses.criterion import Criterion
from bifusion.losses.matcher import NonFiniteCostError
from bifusion.training.guard import Guard, NonFiniteEvent, Phase, border_activations, nonfinite_names
from bifusion.training.monitor import gradient_norms, norms_by_path, observe_fusion
from bifusion.training.runtime import average_gradients, on_any_process
from bifusion.training.stages import StageState
from bifusion.types import Batch

MIN_LOSS_SCALE = 1.0
"""A gradient that overflows even without magnification is not the scaler's fault."""


@dataclass
class StepOutcome:
    """What a step measured; a mean over its batches where there are several."""

    scenes: list[str]
    losses: dict[str, float] = field(default_factory=dict)
    """Unweighted terms."""
    total: float | None = None
    grad_norm: dict[str, float | None] = field(default_factory=dict)
    """By gradient path, before clipping."""
    grad_norm_clipped: float | None = None
    fusion: dict[str, Any] = field(default_factory=dict)
    """`observe_fusion` of the last batch."""
    event: NonFiniteEvent | None = None
    scaler_overflow: bool = False


def weighted_total(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Σ weight · term over the terms whose weight is not zero."""
    parts = [weights[name] * term for name, term in terms.items() if weights.get(name, 0.0) != 0.0]
    return torch.stack(parts).sum() if parts else torch.stack(list(terms.values())).sum() * 0.0


class Stepper:
    """Takes optimiser steps under a guard."""

    def __init__(
        self,
        fabric: Fabric,
        model: _FabricModule,
        optimizer: _FabricOptimizer,
        criterion: Criterion,
        groups: dict[str, list[nn.Parameter]],
        guard: Guard,
        clip_norm: float,
    ):
        self.fabric, self.model, self.optimizer = fabric, model, optimizer
        self.criterion, self.groups, self.guard, self.clip_norm = criterion, groups, guard, clip_norm

    def __call__(self, batches: list[Batch], state: StageState) -> StepOutcome:
        """One optimiser step on the mean loss of `batches`, or none if something is not finite."""
        outcome = StepOutcome(scenes=[name for batch in batches for name in batch.names])
        self.guard.remember()
        for batch in batches:
            self._forward_backward(batch, state, len(batches), outcome)
            if outcome.event:
                outcome.total = None
                break
        if outcome.event is None:
            self._check_gradients(outcome)
        if outcome.event:
            self.guard.dropped()
        elif outcome.scaler_overflow:
            self.guard.overflowed()
        else:
            self.optimizer.step()
            self.guard.passed()
        self.optimizer.zero_grad(set_to_none=True)
        return outcome

    def _forward_backward(
        self, batch: Batch, state: StageState, parts: int, outcome: StepOutcome
    ) -> None:
        batch = batch.to(self.fabric.device)
        prediction = self.model(batch, state.control)
        outcome.fusion = observe_fusion(prediction.fusion, state.control)
        bad = nonfinite_names(border_activations(prediction))
        if on_any_process(self.fabric, bool(bad)):
            outcome.event = _event("activation", bad, batch)
            return
        terms, bad = {}, []
        try:
            terms = self.criterion(prediction, batch)
        except NonFiniteCostError:
            bad = ["matching.cost"]
        for name, value in _numbers(terms).items():
            outcome.losses[name] = outcome.losses.get(name, 0.0) + value / parts
        bad = bad or [f"loss.{name}" for name in nonfinite_names(terms)]
        if on_any_process(self.fabric, bool(bad)):
            outcome.event = _event("loss", bad, batch, prefix="")
            return
        total = weighted_total(terms, state.weights) / parts
        outcome.total = (outcome.total or 0.0) + total.item()
        self.fabric.backward(total)

    def _check_gradients(self, outcome: StepOutcome) -> None:
        """Norms before clipping; then clips, unless a norm is not finite."""
        average_gradients(self.fabric, self.model.parameters())
        precision = self.fabric.strategy.precision
        scale = _loss_scale(precision)
        precision.unscale_gradients(self.optimizer.optimizer)
        norms = gradient_norms(self.groups)
        by_group = _numbers(norms)
        outcome.grad_norm = norms_by_path(by_group)
        bad = [name for name, value in by_group.items() if not _finite(value) and name != "total"]
        if bad or not _finite(by_group.get("total", 0.0)):
            if scale is not None:  # no update; and not its step(), which looks at no norm
                precision.scaler.update(scale * precision.scaler.get_backoff_factor())
            if scale is not None and scale > MIN_LOSS_SCALE:
                outcome.scaler_overflow = True
            else:
                where = [f"gradient.{name}" for name in bad or ["total"]]
                outcome.event = NonFiniteEvent("gradient", where, outcome.scenes)
            return
        if norms:
            parameters = [p for parameters in self.groups.values() for p in parameters]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norms["total"])
            outcome.grad_norm_clipped = min(by_group["total"], self.clip_norm)


def _numbers(tensors: dict[str, Tensor]) -> dict[str, float]:
    """Values of 0-dim tensors, with one device synchronisation in all."""
    values = torch.stack([t.detach() for t in tensors.values()]).tolist() if tensors else []
    return dict(zip(tensors, values, strict=True))


def _event(phase: Phase, where: list[str], batch: Batch, prefix: str | None = None) -> NonFiniteEvent:
    prefix = f"{phase}." if prefix is None else prefix
    return NonFiniteEvent(phase, [prefix + name for name in where], list(batch.names))


def _loss_scale(precision: Any) -> float | None:
    """Factor of the gradient scaler; None without one."""
    scaler = getattr(precision, "scaler", None)
    return None if scaler is None else float(scaler.get_scale())


def _finite(value: float) -> bool:
    return value - value == 0.0
