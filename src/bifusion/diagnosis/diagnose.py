"""What a fault is, where it came from, and whose fault it is: data, weights, or arithmetic.

The step runs again with everything watched, then under other conditions (`experiments.py`): without
low precision, each scene alone, on batches that went well, with weights of a healthy state. No run
lets the optimiser act, and all is afterwards as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from bifusion.config.stages import StageState
from bifusion.device_memory import MEMORY_ERRORS, is_full, told_by
from bifusion.diagnosis.calls import CRITERION, Call, path_of
from bifusion.diagnosis.experiments import Attempt, Experiments
from bifusion.diagnosis.explanation import Diagnosis, explain
from bifusion.diagnosis.growth import find_jump
from bifusion.diagnosis.ranges import range_of
from bifusion.diagnosis.tracing import Tracer
from bifusion.diagnosis.verdict import judge
from bifusion.models.parts import NetworkPath, part_of_group
from bifusion.runs.healthy import HealthyState
from bifusion.step.checks import nonfinite_names
from bifusion.step.events import Fault
from bifusion.step.outcome import StepInputs
from bifusion.step.step import Stepper
from bifusion.types import Batch

BEFORE_THE_WAY_BACK = ("activation", "loss", "matching")
"""Phases in which a fault is met before autograd has begun."""
CALLS_BEFORE = 5
"""Modules before the origin whose ranges are told."""
LARGE = 1e6
"""Numbers this large going into a module that makes infinities of them had grown before it."""


def diagnose(
    stepper: Stepper,
    inputs: StepInputs,
    state: StageState,
    fault: Fault,
    healthy: HealthyState | None,
    reference: list[Batch] | None,
) -> Diagnosis:
    """Diagnoses a step that was dropped; to be called between steps. Where the device has no room for
    it, which takes more than a step, what is known by then is told, with an unclear verdict.

    Args:
        healthy: a state of the run from which steps went well.
        reference: the batches of a step that went well.
    """
    found = Diagnosis(fault.phase, list(fault.scenes))
    if fault.phase == "input":
        return _of_input(found, inputs, fault)
    if fault.phase == "optimizer":
        return _of_optimizer(found, stepper, inputs, fault)
    try:
        _by_experiments(found, Experiments(stepper, inputs, state, fault), healthy, reference)
    except MEMORY_ERRORS as error:
        if not is_full(error):
            raise
        found.explanation = (
            f"The device had no room to look into it ({told_by(error)}). Where there is more, `bifusion "
            "replay` with --trace takes the step again and says where the fault came from."
        )
    return found


def _by_experiments(
    found: Diagnosis,
    experiments: Experiments,
    healthy: HealthyState | None,
    reference: list[Batch] | None,
) -> None:
    """Runs the step again, traced and under other conditions, and notes in `found` what that shows."""
    stepper, fault = experiments.stepper, experiments.fault
    lines = fault.nonfinite and fault.phase not in BEFORE_THE_WAY_BACK
    tracer = Tracer(stepper.model.module, operations=fault.nonfinite, lines=lines)
    attempt = experiments.again(tracer)
    _locate(found, attempt, tracer, fault)
    if attempt.fails and attempt.rerun is not None and (reference or healthy is not None):
        _look_for_growth(found, experiments, tracer, healthy, reference)
    judgement = judge(experiments, attempt, healthy, reference)
    found.verdict, found.scenes = judgement.verdict, judgement.scenes
    found.explanation = explain(found, attempt, judgement.reason)


def _locate(found: Diagnosis, attempt: Attempt, tracer: Tracer, fault: Fault) -> None:
    """Module, operation, loss term and ranges, as far as the traced run shows them."""
    origin, rerun = attempt.origin, attempt.rerun
    if origin is not None:
        found.module = None if origin.module == CRITERION else origin.module
        found.operation, found.loss_term = origin.describe_operation(), origin.term
        found.ranges_before = _ranges_before(tracer.calls, origin.call, origin.direction)
    elif rerun is not None and rerun.bad_buffers:
        order = [call.module for call in tracer.calls]
        found.module = min(rerun.bad_buffers, key=lambda name: _position(order, name))
        found.operation = "running statistics"
        call = next((call for call in tracer.calls if call.module == found.module), None)
        if call is not None:
            found.ranges_before = _ranges_before(tracer.calls, call, "forward")
    if rerun is not None and rerun.bad_cost is not None:
        found.scenes = [rerun.bad_cost.scene]
    if found.loss_term is None and fault.phase == "loss":
        found.loss_term = fault.where[0].removeprefix("loss.")
    found.path = path_of(found.module, found.loss_term)
    if found.module is None and not found.loss_term:
        found.path = path_of_fault(fault)
    if found.path is None and origin is not None:
        found.path = path_of(CRITERION)


def _look_for_growth(
    found: Diagnosis,
    experiments: Experiments,
    tracer: Tracer,
    healthy: HealthyState | None,
    reference: list[Batch] | None,
) -> None:
    """Where numbers first stand out from a healthy step: for a spike the module it began in, for an
    overflow what led to it."""
    inputs = found.ranges_before.get("inputs")
    known = bool(found.ranges_before)
    if known and (not inputs or max(-inputs["min"], inputs["max"]) < LARGE):
        return
    usual = Tracer(experiments.stepper.model.module)
    experiments.trace_healthy(usual, reference, healthy)
    jump = find_jump(tracer.calls, usual.calls, gradients=found.phase != "loss")
    if jump is None:
        return
    if known:
        found.ranges_before["grew_in"] = {"module": jump.call.module, "factor": jump.factor}
        return
    direction = "backward" if jump.backward else "forward"
    found.module = None if jump.call.module == CRITERION else jump.call.module
    found.operation = f"{direction}: {jump.factor:.3g} times what a healthy step makes of its input"
    found.ranges_before = _ranges_before(tracer.calls, jump.call, direction)
    found.path = path_of(jump.call.module)


def _of_input(found: Diagnosis, inputs: StepInputs, fault: Fault) -> Diagnosis:
    found.path = "2d" if all(where.startswith("input.views.") for where in fault.where) else "3d"
    found.verdict = "data"
    bad = [batch for batch in inputs.batches if set(batch.names) & set(fault.scenes)]
    found.ranges_before = {
        "inputs": _plain(range_of([batch.voxel_feats for batch in bad])),
        "before": [],
    }
    found.explanation = (
        f"The data themselves are not finite: {', '.join(fault.where)} of scene "
        f"{', '.join(fault.scenes)}. Prepare the scene again, or take it out of the data set."
    )
    return found


def _of_optimizer(found: Diagnosis, stepper: Stepper, inputs: StepInputs, fault: Fault) -> Diagnosis:
    """The first module one of whose parameters has moments that must not be used."""
    found.verdict = "state"
    found.scenes = [name for batch in inputs.batches for name in batch.names]
    states = stepper.optimizer.optimizer.state
    for name, parameter in stepper.model.module.named_parameters():
        moments = states.get(parameter) or {}
        bad = nonfinite_names({k: m for k, m in moments.items() if k.startswith("exp_avg")})
        negative = bool(moments) and bool((moments["exp_avg_sq"] < 0).any())
        if bad or negative:
            found.module = name.rpartition(".")[0]
            found.operation = f"{', '.join(bad) or 'negative exp_avg_sq'} of {name}"
            ranges = [range_of([moments[k]]) for k in ("exp_avg", "exp_avg_sq")]
            found.ranges_before = {"inputs": _plain(ranges[0]), "before": [_plain(ranges[1])]}
            break
    found.path = path_of(found.module) or path_of_fault(fault)
    found.explanation = (
        f"The optimiser's moments of {', '.join(w.removeprefix('optimizer.') for w in fault.where)} are "
        f"damaged ({found.operation or 'squares of its first moments overflow'}), so any step would "
        "carry them into the weights; the scenes have no part in it. Go back to an earlier checkpoint."
    )
    return found


def path_of_fault(fault: Fault) -> NetworkPath | None:
    """The path of the parameter group that a fault names, or, of buffers without one, of their module;
    None for a fault that names neither."""
    if fault.phase not in ("gradient", "optimizer", "buffers") or not fault.where:
        return None
    name = fault.where[0].split(".", 1)[1]
    part = part_of_group(name)
    return part.path if part is not None else path_of(name)


def _ranges_before(
    calls: Sequence[Call], origin: Call, direction: Literal["forward", "backward"]
) -> dict[str, Any]:
    """Ranges of what went into the origin, and of what the last modules before it put out."""
    backward = direction == "backward"
    inputs = origin.grad_output if backward else origin.inputs
    before: list[dict[str, Any]] = []
    for call in _leaves_before(calls, origin, backward):
        range_ = call.grad_input if backward else call.output
        if range_ is not None:
            before.append({"module": call.module, **asdict(range_)})
        if len(before) == CALLS_BEFORE:
            break
    return {"inputs": _plain(inputs), "before": before}


def _leaves_before(calls: Sequence[Call], origin: Call, backward: bool) -> list[Call]:
    """Calls of leaf modules that ended before the origin's, the last of them first."""
    position = next((i for i, call in enumerate(calls) if call is origin), len(calls))
    ordered = calls[position + 1 :] if backward else list(reversed(calls[:position]))
    return [call for call in ordered if call.leaf]


def _plain(range_: Any) -> dict[str, float] | None:
    return None if range_ is None else asdict(range_)


def _position(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
