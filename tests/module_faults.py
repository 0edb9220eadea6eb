"""Whole tensors made non-finite at a module, and what tracing the step says about it."""

from __future__ import annotations

import math
from typing import Any, Literal

from laboratory.faults import change_gradient, replace_tensor
from torch import nn

from bifusion.diagnosis.rerun import run_again
from bifusion.diagnosis.tracing import Tracer
from step_factory import TinyStep

Direction = Literal["forward", "backward"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
VALUES = {"nan": math.nan, "inf": math.inf}


def trained_leaves(step: TinyStep) -> list[str]:
    """Modules without parts that a step calls and whose gradient is not zero."""
    tracer, _ = trace(step, ranges=True)
    trained = [c for c in tracer.calls if c.leaf and c.grad_output and c.grad_output.rms > 0]
    return list(dict.fromkeys(call.module for call in trained))


def trace(
    step: TinyStep, *, ranges: bool = False, operations: bool = False
) -> tuple[Tracer, str | None]:
    """The step run again under hooks, and the phase of the fault that it met."""
    tracer = Tracer(step.stepper.model.module, ranges=ranges, operations=operations)
    fault = run_again(step.stepper, step.inputs, step.state, tracer=tracer).outcome.event
    return tracer, None if fault is None else fault.phase


def named_origin(
    step: TinyStep, module: str, direction: Direction, value: float
) -> tuple[str | None, str | None, str | None]:
    """(module, direction, phase) that are named where `module` puts out `value` times its output, or
    hands on `value` times the gradient that reaches it."""

    def strike(_: nn.Module, args: tuple, output: Any) -> Any:
        if direction == "forward":
            return replace_tensor(output, lambda tensor: tensor * value)
        return replace_tensor(output, lambda tensor: change_gradient(tensor, lambda g: g * value))

    handle = step.stepper.model.module.get_submodule(module).register_forward_hook(strike)
    try:
        tracer, phase = trace(step)
    finally:
        handle.remove()
    origin = tracer.origin
    return (None, None, phase) if origin is None else (origin.module, origin.direction, phase)
