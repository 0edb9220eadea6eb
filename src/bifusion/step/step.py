"""One optimiser step: forward, loss, checks, backward, checks, clip, step.

`compute` does everything up to the gradients and changes nothing that `discard` would not undo, so
that a step can be run again; `act` takes the step or drops it.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn

from bifusion.config.stages import StageState
from bifusion.data.view_agreement import disagreeing_views
from bifusion.losses.criterion import Criterion
from bifusion.losses.matcher import NonFiniteCostError
from bifusion.rng import derive_seed
from bifusion.step.checks import (
    VarianceWatch,
    bad_inputs,
    bad_optimizer_groups,
    border_activations,
    buffers_by_group,
    negative_groups,
    nonfinite_groups,
    nonfinite_names,
)
from bifusion.step.clipping import Clipping
from bifusion.step.conflicts import term_conflicts
from bifusion.step.events import Fault, Phase
from bifusion.step.guard import Guard
from bifusion.step.observe import gradient_norms, norms_by_path, observe
from bifusion.step.outcome import StepInputs, StepOutcome
from bifusion.step.processes import Processes
from bifusion.step.runtime import gradients_by_hand
from bifusion.step.updates import WeightsBefore
from bifusion.types import Batch

MIN_LOSS_SCALE = 1.0
"""A gradient that overflows even without magnification is not the scaler's fault."""


class FaultMet(ArithmeticError):
    """Ends the computation of a step."""

    def __init__(self, fault: Fault):
        super().__init__(", ".join(fault.where))
        self.fault = fault


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
        clipping: Clipping,
    ):
        self.fabric, self.model, self.optimizer = fabric, model, optimizer
        self.criterion, self.groups, self.guard, self.clipping = criterion, groups, guard, clipping
        self.processes = Processes(fabric)
        self._buffers = buffers_by_group(model.module, groups)
        self._variances = buffers_by_group(model.module, groups, "running_var")
        self._variance_watch = VarianceWatch(model.module)
        self._unscaled = False
        """The gradient scaler has divided the gradients of this step and waits for its end."""

    def __call__(self, inputs: StepInputs, state: StageState) -> StepOutcome:
        """One optimiser step on the mean loss of the batches, or none if it meets a fault."""
        outcome = self.compute(inputs, state)
        self.act(outcome, inputs, state)
        return outcome

    def compute(self, inputs: StepInputs, state: StageState) -> StepOutcome:
        """Measures a step and leaves its gradients; to be followed by `act` or `discard`."""
        torch.manual_seed(derive_seed(inputs.seed, "step", inputs.step))
        outcome = StepOutcome(scenes=[name for batch in inputs.batches for name in batch.names])
        outcome.disagreeing_views = [v for batch in inputs.batches for v in disagreeing_views(batch)]
        outcome.loss_scale = self._loss_scale()
        self.guard.remember()
        self._variance_watch.begin()
        try:
            for batch in inputs.batches:
                batch = batch.to(self.fabric.device)
                self._forward_backward(batch, inputs, state, outcome)
            outcome.statistics = self._variance_watch.growth()
            self._measure_gradients(outcome)
            if not outcome.scaler_overflow:
                bad = bad_optimizer_groups(self.optimizer.optimizer)
                self._refuse("optimizer", bad, outcome.scenes)
        except FaultMet as met:
            outcome.event = met.fault
            if met.fault.phase not in ("gradient", "optimizer"):
                outcome.total = None
        self.processes.average(outcome)
        return outcome

    def act(self, outcome: StepOutcome, inputs: StepInputs, state: StageState) -> None:
        """Takes the step that `compute` has measured, or drops it whole."""
        if outcome.event is None and not outcome.scaler_overflow:
            self.guard.judge(outcome, state)
        fault = outcome.event
        if fault is not None:
            self.discard(lower_scale=fault.phase == "gradient" and fault.nonfinite)
            self.guard.dropped(outcome, fault)
        elif outcome.scaler_overflow:
            self.discard(lower_scale=True)
            self.guard.overflowed()
        else:
            self._update(outcome, inputs.step)
            self.optimizer.zero_grad(set_to_none=True)
            self.guard.passed(outcome, state)

    def discard(self, *, lower_scale: bool = False) -> None:
        """Undoes `compute`: buffers put back, gradients dropped, the scaler's factor as it was, or
        lower after an overflow."""
        self.guard.put_back()
        self.optimizer.zero_grad(set_to_none=True)
        scaler, scale = self._scaler, self._loss_scale()
        if scaler is not None and scale is not None and self._unscaled:
            # not its step(), which looks at no norm
            scaler.update(scale * scaler.get_backoff_factor() if lower_scale else scale)
        self._unscaled = False

    def _forward_backward(
        self, batch: Batch, inputs: StepInputs, state: StageState, outcome: StepOutcome
    ) -> None:
        parts = len(inputs.batches)
        bad, scenes = bad_inputs(batch)
        self._refuse("input", bad, scenes)
        prediction = self.model(batch, state.control)
        outcome.fusion = observe(prediction, state.control)
        bad = nonfinite_names(border_activations(prediction))
        buffers = nonfinite_groups(self._buffers) or negative_groups(self._variances)
        self._refuse("activation" if bad else "buffers", bad or buffers, batch.names)
        terms = self._loss_terms(batch, prediction, parts, outcome)
        if _due(inputs.step, self.guard.config.rules.conflicts_every):
            with gradients_by_hand():
                outcome.conflicts = term_conflicts(self.model, terms, state.weights)
        total = weighted_total(terms, state.weights) / parts
        outcome.total = (outcome.total or 0.0) + total.item()
        self.fabric.backward(total)

    def _loss_terms(
        self, batch: Batch, prediction: Any, parts: int, outcome: StepOutcome
    ) -> dict[str, Tensor]:
        terms, phase, bad = {}, "loss", []
        try:
            terms = self.criterion(prediction, batch)
            bad = nonfinite_names(terms)
        except NonFiniteCostError:
            phase, bad = "matching", ["cost"]
        for name, value in _numbers(terms).items():
            outcome.losses[name] = outcome.losses.get(name, 0.0) + value / parts
        self._refuse(phase, bad, batch.names)
        return terms

    def _measure_gradients(self, outcome: StepOutcome) -> None:
        """Norms before clipping; a fault, or the scaler's overflow, where one is not finite."""
        self.processes.average_gradients(self.model.parameters())
        self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        self._unscaled = True
        norms = _numbers(gradient_norms(self.groups))
        outcome.grad_norm = norms_by_path(norms)
        bad = [name for name, norm in norms.items() if not _finite(norm) and name != "total"]
        if not bad and not _finite(norms.get("total", 0.0)):
            bad = ["total"]
        if bad and outcome.loss_scale is not None and outcome.loss_scale > MIN_LOSS_SCALE:
            outcome.scaler_overflow = True
        else:
            self._refuse("gradient", bad, outcome.scenes)

    def _update(self, outcome: StepOutcome, step: int) -> None:
        """Clips the gradients and lets the optimiser act."""
        norm = outcome.grad_norm["total"]
        if norm is not None:
            parameters = [p for parameters in self.groups.values() for p in parameters]
            total = torch.tensor(norm, device=self.fabric.device)
            limit = self.clipping.limit()
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, total)
            outcome.grad_norm_clipped = min(norm, limit)
            self.clipping.took(norm)
        measured = _due(step, self.guard.config.rules.updates_every)
        before = WeightsBefore(self.groups) if measured else None
        self.optimizer.step()
        outcome.update_ratio = before.ratios() if before is not None else None
        self._unscaled = False

    def _refuse(self, phase: Phase, bad: list[str], scenes: list[str]) -> None:
        """Raises FaultMet, on all processes, if something is bad on one."""
        fault = Fault(phase, [f"{phase}.{name}" for name in bad], list(scenes)) if bad else None
        fault = self.processes.agree(fault)
        if fault is not None:
            raise FaultMet(fault)

    @property
    def _scaler(self) -> Any:
        """The gradient scaler of float16; None without one."""
        return getattr(self.fabric.strategy.precision, "scaler", None)

    def _loss_scale(self) -> float | None:
        return None if self._scaler is None else float(self._scaler.get_scale())


def _numbers(tensors: dict[str, Tensor]) -> dict[str, float]:
    """Values of 0-dim tensors, with one device synchronisation in all."""
    values = torch.stack([t.detach() for t in tensors.values()]).tolist() if tensors else []
    return dict(zip(tensors, values, strict=True))


def _due(step: int, every: int) -> bool:
    """Whether what is measured every so many steps (0: never) is measured in this one."""
    return every > 0 and step % every == 0


def _finite(value: float) -> bool:
    return value - value == 0.0
