"""A step for which the device has no room: where it ended, which part takes the most, what to lower."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, get_args

import torch
from torch import Tensor, nn

from bifusion.config.run import Config, RecomputedPart
from bifusion.config.stages import StageState
from bifusion.device_memory import MEMORY_ERRORS, is_full, size_of, told_by
from bifusion.errors import InputError
from bifusion.models.compiled import eager
from bifusion.models.parts import BY_NAME, part_of_module
from bifusion.models.recompute import is_recomputing
from bifusion.step.outcome import StepInputs, StepOutcome
from bifusion.step.step import Stepper

MIB = 2**20
REMEDIES = 3
RECOMPUTE = "--trainer.recompute"
TOWER = BY_NAME["tower"].label


def measured(
    stepper: Stepper,
    inputs: StepInputs,
    state: StageState,
    at_once: AbstractContextManager[Any],
    config: Config,
) -> StepOutcome:
    """`stepper.measure`; InputError, and nothing of the step is left, where the device has no room for
    it."""
    model: nn.Module = stepper.model.module
    try:
        return stepper.measure(inputs, state, at_once)
    except MEMORY_ERRORS as error:
        if not is_full(error):
            raise
        told, place = told_by(error), module_at(error.__traceback__, model)
    # out here the error is gone, and with its frames what the step had on the device
    kept = {} if stepper.processes.several else kept_by_part(stepper, inputs, state)
    raise InputError(_message(config, inputs, told, place, kept, _held(stepper)))


@contextmanager
def room_for_update(config: Config, inputs: StepInputs) -> Iterator[None]:
    """For the update itself, which takes room in the first steps, as the optimiser makes its moments;
    InputError where there is none."""
    try:
        yield
    except MEMORY_ERRORS as error:
        if not is_full(error):
            raise
        raise InputError(
            f"{config.name}: step {inputs.step} has no memory for the optimiser's update "
            f"({told_by(error)}); its moments take twice the weights' memory. The run stays as it was "
            "last saved: free memory that others take, or choose a smaller network"
        ) from error


def module_at(traceback: TracebackType | None, model: nn.Module) -> str:
    """Dotted path of the innermost module of `model` that was at work; empty where none was, as in the
    backward pass."""
    names, found = {id(module): name for name, module in model.named_modules()}, ""
    while traceback is not None:
        found = names.get(id(traceback.tb_frame.f_locals.get("self")), "") or found
        traceback = traceback.tb_next
    return found


def kept_by_part(stepper: Stepper, inputs: StepInputs, state: StageState) -> dict[str, int]:
    """Bytes that each part keeps for the backward pass, by the part's label, most first.

    The step's largest batch is computed again, as far as it comes; weights are not counted.
    """
    largest = max(inputs.batches, key=lambda batch: len(batch.voxel_coords))
    alone = dataclasses.replace(inputs, batches=[largest])
    model: nn.Module = stepper.model.module
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with eager(model), _counting(model) as kept:
        try:
            stepper.compute(alone, state)
        except MEMORY_ERRORS as error:
            if not is_full(error):
                raise
        finally:
            stepper.discard()
    return dict(kept.most_common())


@contextmanager
def _counting(model: nn.Module) -> Iterator[Counter[str]]:
    """What is saved for the backward pass within the block, in bytes by the label of the part of `model`
    that saves it, "losses" after it; a storage counts once."""
    kept, at_work = Counter[str](), list[str]()
    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept[at_work[-1] if at_work else "losses"] += storage.nbytes()
        return tensor.detach()

    handles = []
    for label, module in _modules_of_parts(model):
        enter, leave = _marks(label, at_work)
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


def _marks(label: str, at_work: list[str]) -> tuple[Callable[..., None], Callable[..., None]]:
    def enter(*_: object) -> None:
        if not is_recomputing():
            at_work.append(label)

    def leave(*_: object) -> None:
        if not is_recomputing():
            at_work.pop()

    return enter, leave


def _modules_of_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with the part that it is of, as a part may be entered by another method than its
    forward."""
    for path, module in model.named_modules():
        part = part_of_module(path)
        if part is not None or not path:
            yield (part.label if part is not None else "between its parts"), module


def _held(stepper: Stepper) -> int:
    """Bytes of weights, of the gradients of those that train, and of the optimiser's moments."""
    parameters = list(stepper.model.module.parameters())
    moments = [
        value
        for state in stepper.optimizer.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    gradients = [parameter for parameter in parameters if parameter.requires_grad]
    return sum(tensor.nbytes for tensor in (*parameters, *gradients, *moments))


def _message(
    config: Config,
    inputs: StepInputs,
    told: str,
    place: str,
    kept: dict[str, int],
    held: int,
) -> str:
    scenes = "; ".join(f"{', '.join(batch.names)}: {size_of(batch)}" for batch in inputs.batches)
    where = f"in {place}" if place else "in the backward pass or the losses"
    figures = [f"{label} {_mebibytes(size)}" for label, size in kept.items()]
    parts = f" For the backward pass are kept: {', '.join(figures)}." if figures else ""
    largest = next(iter(kept), "")
    same, other = _recomputing(config, kept), _remedies(config, largest)
    less = "; ".join([*same, *other][:REMEDIES])
    but = f"All but {RECOMPUTE} make" if same else "These make"
    go_on = "with that, or " if same else ""
    return (
        f"{config.name}: step {inputs.step} takes more memory than there is, {where} ({told}). It reads "
        f"{scenes}.{parts} Weights, gradients and moments take {_mebibytes(held)}. Nothing of the step "
        f"is left. What takes less: {less}. {but} another run of it; {go_on}where others take the "
        "memory, free it and go on with --resume (in Python resume=True)"
    )


def _mebibytes(size: int) -> str:
    return f"{size / MIB:,.1f} MiB"


def _recomputing(config: Config, kept: dict[str, int]) -> list[str]:
    """The largest part whose activations are kept and need not be, beside those that are not; all such
    parts where nothing is known of them."""
    on = config.trainer.recompute
    has = [part for part in get_args(RecomputedPart) if part != "tower" or config.uses_views]
    off = [part for part in has if part not in (*on, *config.trainer.compile)]
    off.sort(key=lambda part: -kept.get(BY_NAME[part].label, 0))
    wanted = sorted([*on, *(off[:1] if kept else off)])
    return [f"{RECOMPUTE} {' '.join(wanted)}, slower and with the same result"] if off else []


def _remedies(config: Config, largest: str) -> list[str]:
    """What to lower, first what acts on the largest part."""
    data, trainer = config.data, config.trainer
    views, points = [], []
    if data.max_views > 1:
        views = [
            f"--data.max-views below {data.max_views}",
            f"--data.image-size below {data.image_size}",
        ]
    if trainer.batch_size > 1:
        points.append(
            f"--trainer.batch-size below {trainer.batch_size}, with --trainer.accumulate for as many "
            "scenes a step"
        )
    if trainer.precision == "32-true":
        points.append("--trainer.precision bf16-mixed")
    points.append(f"--data.voxel-size-m above {data.voxel_size_m:g}")
    points.append("scenes that are cut into smaller ones")
    return views + points if largest == TOWER else points + views
