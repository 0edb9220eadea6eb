"""One optimiser step: forward, loss, backward, a look at all of it, clip, update.

`compute` does everything up to the gradients and changes nothing that `discard` would not undo, so
that a step can be run again; `act` takes the step or drops it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn

from bifusion.config.optim import may_train
from bifusion.config.stages import StageState
from bifusion.losses.criterion import Criterion
from bifusion.losses.matcher import NonFiniteCostError
from bifusion.losses.shares import Share, shares
from bifusion.precision import Matmul, float32_products
from bifusion.rng import derive_seed
from bifusion.step.checks import Statistics
from bifusion.step.clipping import Clipping
from bifusion.step.conflicts import conflict_figures
from bifusion.step.guard import Guard
from bifusion.step.outcome import StepInputs, StepOutcome
from bifusion.step.processes import LeftByAnotherError, Processes
from bifusion.step.runtime import gradients_by_hand
from bifusion.step.updates import WeightsBefore
from bifusion.step.watch import MIN_LOSS_SCALE, NonFiniteInputError, StepWatch
from bifusion.types import Batch


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
        *,
        shared_norms: bool = True,
        matmul: Matmul = "ieee",
    ):
        """`shared_norms`: with several processes BatchNorm counts the voxels of all of them. `matmul`:
        how a GPU multiplies float32."""
        self.fabric, self.model, self.optimizer = fabric, model, optimizer
        self.criterion, self.groups, self.guard, self.clipping = criterion, groups, guard, clipping
        self.may_train = may_train(groups)
        """Of the groups, what no stage unfreezes left out."""
        self.processes = Processes(fabric, model.module, shared_norms=shared_norms)
        self._matmul: Matmul = matmul
        self._statistics = Statistics(model.module, groups)
        self._unscaled = False
        """The gradient scaler has divided the gradients of this step and waits for its end."""

    def __call__(
        self,
        inputs: StepInputs,
        state: StageState,
        at_once: AbstractContextManager[Any] = nullcontext(),  # noqa: B008
    ) -> StepOutcome:
        """One optimiser step on the loss of all scenes of the batches, as of one batch, or none if it
        meets a fault."""
        outcome = self.measure(inputs, state, at_once)
        self.act(outcome, inputs, state)
        return outcome

    def measure(
        self,
        inputs: StepInputs,
        state: StageState,
        at_once: AbstractContextManager[Any] = nullcontext(),  # noqa: B008
    ) -> StepOutcome:
        """`compute`, of which nothing is left where it does not come to its end, by an error or by what
        ends the block `at_once`.

        An overflow of a float16 scaler is computed once more at the least loss scale: what is not
        finite there either is a fault.
        """
        with ExitStack() as undoing:
            undoing.callback(self.discard)
            with at_once:
                outcome = self.compute(inputs, state)
            if outcome.scaler_overflow:
                self.discard()
                with self.least_scale():  # all processes, as all have seen the same gradients
                    outcome.event = self.compute(inputs, state).event
                    self.discard()
                outcome.scaler_overflow = outcome.event is None
            undoing.pop_all()
        return outcome

    @contextmanager
    def least_scale(self) -> Iterator[None]:
        """In this block a float16 scaler's factor is MIN_LOSS_SCALE at most, so that gradients overflow
        only by themselves; nothing without one."""
        scaler = self._scaler
        if scaler is None:
            yield
            return
        before = scaler.state_dict()
        try:
            scaler.load_state_dict(before | {"scale": min(before["scale"], MIN_LOSS_SCALE)})
            yield
        finally:
            scaler.load_state_dict(before)

    def compute(
        self, inputs: StepInputs, state: StageState, *, model: Any = None, criterion: Any = None
    ) -> StepOutcome:
        """Measures a step and leaves its gradients; to be followed by `act` or `discard`.

        Another `model` or `criterion` may stand in, as where somebody looks on.
        """
        model = self.model if model is None else model
        criterion = self.criterion if criterion is None else criterion
        torch.manual_seed(derive_seed(inputs.seed, "step", inputs.step))
        self._statistics.remember()
        watch = StepWatch(inputs, self._statistics, self._loss_scale())
        try:
            with float32_products(self._matmul, self.fabric.device):
                of_batches = self._shares(inputs.batches)
                for place, batch in enumerate(inputs.batches, start=1):
                    watch.batch(batch)
                    self.processes.stay()
                    here, share = batch.to(self.fabric.device), of_batches[place - 1]
                    total = self._loss(here, share, inputs, state, watch, model, criterion)
                    self.processes.backward(total, last=place == len(inputs.batches))
                self.processes.finish()
            self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
            self._unscaled = True
        except NonFiniteInputError as error:
            watch.met("input", error.bad, error.scenes)
            self.processes.leave()
        except NonFiniteCostError:
            watch.met("matching", ["cost"])
            self.processes.leave()
        except LeftByAnotherError:
            pass  # what it met is told below
        watch.gradients(self.groups, self.optimizer.optimizer)
        return watch.tell(state.control, self.processes)

    def _shares(self, batches: list[Batch]) -> Sequence[Share | None]:
        """Of each of the step's batches here; None for a batch that makes the step alone."""
        if len(batches) == 1 and not self.processes.several:
            return [None]
        model: Any = self.model.module
        chosen = [model.query_superpoints(batch) for batch in batches]
        own = [self.criterion.counts(*pair) for pair in zip(batches, chosen, strict=True)]
        return shares(own, self.processes.total)

    def _loss(
        self,
        batch: Batch,
        share: Share | None,
        inputs: StepInputs,
        state: StageState,
        watch: StepWatch,
        model: Any,
        criterion: Any,
    ) -> Tensor:
        """The loss of a batch, by which `compute` differentiates; () with its graph."""
        with self.processes.forward(batch):
            prediction = model(batch, state.control)
        watch.prediction(prediction)
        terms = criterion(prediction, batch, share)
        self.processes.stay()  # the matching may have ended the step on another one
        total = weighted_total(terms, state.weights) / len(inputs.batches)
        watch.losses(terms, total, self._conflicts(inputs.step, terms, state))
        return total

    def act(self, outcome: StepOutcome, inputs: StepInputs, state: StageState) -> None:
        """Takes the step that `compute` has measured, or drops it whole."""
        if outcome.event is None and not outcome.scaler_overflow:
            self.guard.judge(outcome, state)
        fault = outcome.event
        if fault is not None:
            lowest = outcome.loss_scale is not None and outcome.loss_scale <= MIN_LOSS_SCALE
            # above it a lower scale has been tried, and did not help
            self.discard(lower_scale=lowest and fault.phase == "gradient" and fault.nonfinite)
            self.guard.dropped(outcome, fault)
        elif outcome.scaler_overflow:
            self.discard(lower_scale=True)
            self.guard.overflowed()
        else:
            self._update(outcome, inputs.step)
            self.optimizer.zero_grad(set_to_none=True)
            self._statistics.forget()
            self.guard.passed(outcome, state)

    def discard(self, *, lower_scale: bool = False) -> None:
        """Undoes `compute`: buffers put back, gradients dropped, the scaler's factor as it was, or
        lower after an overflow, from which on it counts good steps anew."""
        self._statistics.put_back()
        self.optimizer.zero_grad(set_to_none=True)
        scaler, scale = self._scaler, self._loss_scale()
        if scaler is not None and scale is not None and (self._unscaled or lower_scale):
            # not its step(), which looks at no norm; an update to a given factor leaves its count
            scaler.update(scale * scaler.get_backoff_factor() if lower_scale else scale)
            if lower_scale:
                scaler.load_state_dict(scaler.state_dict() | {"_growth_tracker": 0})
        self._unscaled = False

    def _conflicts(
        self, step: int, terms: dict[str, Tensor], state: StageState
    ) -> dict[str, Tensor] | None:
        """Figures of how loss terms pull against each other, in the steps that measure it."""
        if not _due(step, self.guard.config.rules.conflicts_every):
            return None
        with gradients_by_hand(), self.processes.apart():
            return conflict_figures(self.model, terms, state.weights)

    def _update(self, outcome: StepOutcome, step: int) -> None:
        """Clips the gradients and lets the optimiser act."""
        norm = outcome.grad_norm["total"]
        if norm is not None:
            parameters = [p for parameters in self.groups.values() for p in parameters]
            total = torch.full((), norm, device=self.fabric.device)
            limit = self.clipping.limit()
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, total)
            outcome.grad_norm_clipped = min(norm, limit)
            self.clipping.took(norm)
        measured = _due(step, self.guard.config.rules.updates_every)
        before = WeightsBefore(self.groups) if measured else None
        self.optimizer.step()
        outcome.update_ratio = before.ratios() if before is not None else None
        self._unscaled = False

    @property
    def _scaler(self) -> Any:
        """The gradient scaler of float16; None without one."""
        return getattr(self.fabric.strategy.precision, "scaler", None)

    def _loss_scale(self) -> float | None:
        return None if self._scaler is None else float(self._scaler.get_scale())


def _due(step: int, every: int) -> bool:
    """Whether what is measured every so many steps (0: never) is measured in this one."""
    return every > 0 and step % every == 0
