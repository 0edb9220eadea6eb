"""Runs a step again, as it was or under other conditions, and leaves no trace of having done so."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bifusion.config.stages import StageState
from bifusion.diagnosis.calls import CRITERION
from bifusion.diagnosis.tracing import Tracer
from bifusion.losses.matcher import NonFiniteCostError
from bifusion.losses.shares import Share
from bifusion.models.compiled import eager
from bifusion.runs.healthy import HealthyState
from bifusion.step.checks import border_activations, nonfinite_names
from bifusion.step.outcome import StepInputs, StepOutcome
from bifusion.step.step import Stepper
from bifusion.types import Batch, Prediction

RERUN_ERRORS = (ValueError, RuntimeError, IndexError, ArithmeticError, AssertionError)
"""What code may raise on data or weights it was not made for."""


@dataclass
class Rerun:
    """What came of a step that ran again."""

    outcome: StepOutcome
    fingerprint: str
    """SHA-256 over losses, border activations and gradients."""
    bad_buffers: list[str]
    """Modules whose buffers the step made non-finite, in order of the model."""
    bad_cost: NonFiniteCostError | None
    """What the matching met; it names the scene and the decoder's output."""


class Fingerprint:
    """SHA-256 over named tensors; any NaN counts as the same one, whose bits mean nothing."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    @torch.no_grad()
    def add(self, name: str, tensor: Tensor) -> None:
        """Takes in a tensor of any type and device."""
        plain = tensor.detach().cpu().contiguous()
        if plain.is_floating_point():
            plain = torch.where(torch.isnan(plain), torch.full_like(plain, torch.nan), plain)
        self._digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        self._digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        """Of all taken in so far."""
        return self._digest.hexdigest()


def run_again(
    stepper: Stepper,
    inputs: StepInputs,
    state: StageState,
    *,
    tracer: Tracer | None = None,
    float32: bool = False,
) -> Rerun:
    """Forward, losses and backward of a step; no optimiser acts.

    To be called between steps. Weights, buffers, gradients, optimiser, scaler and random generators
    are afterwards as before, also where this raises. `float32` computes without autocast. A view's
    features come from the tower, never from its cache; blocks run as written, not as compiled.
    """
    digest = Fingerprint()
    model = stepper.model.module
    with untouched(stepper), ExitStack() as stack:
        if tracer is not None:
            stack.enter_context(tracer)
        criterion = _Watched(stepper.criterion, tracer, digest)
        handle = model.register_forward_hook(partial(_add_borders, digest))
        stack.callback(handle.remove)
        plain = model if float32 else None
        outcome = stepper.compute(inputs, state, model=plain, criterion=criterion)
        bad_buffers = _bad_buffers(model)
        if tracer is not None and tracer.origin is None:
            tracer.check_parameters()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                digest.add(name, parameter.grad)
    return Rerun(outcome, digest.hexdigest(), bad_buffers, criterion.bad_cost)


@contextmanager
def untouched(stepper: Stepper) -> Iterator[None]:
    """Whatever steps are computed in this block, everything is as before afterwards."""
    model, device = stepper.model.module, stepper.fabric.device
    precision = stepper.fabric.strategy.precision
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    scaler = precision.state_dict()
    devices = [device] if device.type == "cuda" else []
    tower = getattr(model, "tower", None)
    no_cache = _replaced(tower, "cache", None) if hasattr(tower, "cache") else nullcontext()
    random = torch.random.fork_rng(devices=devices)
    with random, stepper.processes.alone(), no_cache, eager(model):
        model.train()
        for parameter, _ in gradients:
            parameter.grad = None
        try:
            yield
        finally:
            stepper.discard()
            for module, training in modes:
                module.training = training
            for parameter, gradient in gradients:
                parameter.grad = gradient
            precision.load_state_dict(scaler)


@contextmanager
def healthy_weights(stepper: Stepper, healthy: HealthyState) -> Iterator[None]:
    """The model has the weights and buffers of `healthy` in this block; the optimiser keeps its own."""
    model = stepper.model.module
    present = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    try:
        model.load_state_dict(healthy.model)
        yield
    finally:
        model.load_state_dict(present)


def with_batches(inputs: StepInputs, batches: list[Batch]) -> StepInputs:
    """The same step on other batches."""
    return dataclasses.replace(inputs, batches=batches)


class _Watched:
    """A criterion whose terms are traced and added to a fingerprint."""

    def __init__(self, criterion: Any, tracer: Tracer | None, digest: Fingerprint):
        self._criterion, self._tracer, self._digest = criterion, tracer, digest
        self.bad_cost: NonFiniteCostError | None = None

    def __call__(
        self, prediction: Prediction, batch: Batch, share: Share | None = None
    ) -> dict[str, Tensor]:
        tracer = self._tracer
        try:
            with tracer.part(CRITERION, prediction.layers) if tracer is not None else nullcontext():
                terms = self._criterion(prediction, batch, share)
        except NonFiniteCostError as error:
            self.bad_cost = error
            if tracer is not None:
                tracer.blame_criterion(None)
            raise
        if tracer is not None:
            tracer.take_terms(terms)
            for name in nonfinite_names(terms):
                tracer.blame_criterion(name)
        for name, term in terms.items():
            self._digest.add(f"loss.{name}", term)
        return terms

    def __getattr__(self, name: str) -> Any:
        return getattr(self._criterion, name)


def _add_borders(digest: Fingerprint, model: nn.Module, args: Any, prediction: Any) -> None:
    borders = border_activations(prediction)
    if prediction.fusion is not None:  # of all voxels, as in the bundles of former versions
        borders |= {"f2d_in": [prediction.fusion.f2d_in], "f2d": [prediction.fusion.f2d]}
    for name, parts in borders.items():
        whole = torch.cat([part.flatten() for part in parts]) if name.endswith("logits") else parts[0]
        digest.add(f"activation.{name}", whole)


def _bad_buffers(model: nn.Module) -> list[str]:
    bad = nonfinite_names({n: b for n, b in model.named_buffers() if b.is_floating_point()})
    return list(dict.fromkeys(name.rpartition(".")[0] for name in bad))


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
