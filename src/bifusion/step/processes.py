"""What the processes of a run tell each other during a step, so that all act alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed
from lightning_fabric import Fabric
from torch import Tensor, nn

from bifusion.sparse.modules import BatchNorm
from bifusion.sparse.shared_norm import SharedNorms
from bifusion.step.events import PHASES, Fault
from bifusion.step.gradients import GradientExchange
from bifusion.step.outcome import StepOutcome
from bifusion.step.runtime import on_any_process
from bifusion.types import Batch


class LeftByAnotherError(ArithmeticError):
    """Another process has met a fault that ends the step; all leave it here."""


class Processes:
    """The processes of `fabric`; on a single one nothing is exchanged.

    While a step is computed they come to the same exchanges in the same order. A process that cannot go
    on says so in place of the next one (`leave`), and the others leave there (`stay`, `total`).
    """

    def __init__(self, fabric: Fabric, model: nn.Module, *, shared_norms: bool = True):
        """`shared_norms`: BatchNorm of `model` counts the voxels of all processes."""
        self.fabric = fabric
        self._alone = False
        self._norms: SharedNorms | None = None
        self._gradients: GradientExchange | None = None
        if fabric.world_size > 1:
            norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
            shared = shared_norms and bool(norms)
            exchange = GradientExchange(list(model.parameters()), fabric.world_size, shared)
            self._gradients = exchange
            if shared:
                self._norms = SharedNorms(exchange.moment)
                for norm in norms:
                    norm.shared = self._norms

    @property
    def several(self) -> bool:
        """Others take part in what this process does."""
        return self.fabric.world_size > 1 and not self._alone

    @contextmanager
    def alone(self) -> Iterator[None]:
        """In this block the process works by itself, as when it runs a step of its own again."""
        before, self._alone = self._alone, True
        try:
            yield
        finally:
            self._alone = before

    def agree(self, fault: Fault | None) -> Fault | None:
        """The fault that any process met, the same on all of them: they must leave a step together.

        The earliest phase that one of them names counts: what one process met before the gradients are
        averaged, all of them see in the gradients. Places and scenes are those of all that name it.
        """
        if not self.several or not on_any_process(self.fabric, fault is not None):
            return fault
        met = [fault for fault in self.gather(fault) if fault is not None]
        first = min((fault.phase for fault in met), key=PHASES.index)
        faults = [fault for fault in met if fault.phase == first]
        return Fault(
            phase=faults[0].phase,
            where=_union(fault.where for fault in faults),
            scenes=_union(fault.scenes for fault in faults),
            rule=faults[0].rule,
        )

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in their order, on all of them; alone just `value`."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def stay(self) -> None:
        """This process can go on with the step. LeftByAnotherError where another one cannot."""
        if self.several and on_any_process(self.fabric, False):
            raise LeftByAnotherError

    def leave(self) -> None:
        """This process cannot go on with the step, where it would `stay` or ask for a `total`."""
        if self.several:
            on_any_process(self.fabric, True)

    def total(self, counts: Tensor) -> Tensor:
        """Sum over all processes, whose `counts` are of the same shape; on any device. Raises as
        `stay`."""
        if not self.several:
            return counts
        self.stay()
        total = counts.detach().to(self.fabric.device, torch.float64, copy=True)
        torch.distributed.all_reduce(total)
        return total

    def forward(self, batch: Batch) -> AbstractContextManager[None]:
        """For the forward pass of `batch`."""
        if self._norms is None or not self.several:
            return nullcontext()
        return self._norms.together(counts=batch.counts)

    def apart(self) -> AbstractContextManager[None]:
        """For gradients that are only measured, of terms that another process may not have: nothing is
        exchanged, by norms either."""
        return nullcontext() if self._norms is None else self._norms.apart()

    def backward(self, total: Tensor, *, last: bool) -> None:
        """The backward pass of a loss; gradients go round in the `last` one of a step, and are the means
        over all processes once `finish` has been called."""
        if self.several and self._norms is not None:
            total = self._norms.tied(total)
        if self.several and self._gradients is not None and last:
            self._gradients.begin()
        self.fabric.backward(total)

    def finish(self) -> None:
        """Waits for the mean gradients of all processes."""
        if self.several and self._gradients is not None:
            self._gradients.finish()

    def average(self, outcome: StepOutcome) -> None:
        """Makes the outcome that of all processes: means of what each measured on its own scenes. A
        loss term that one has not got, as no voxel is seen there, is 0 there."""
        if not self.several:
            return
        shared = ("total", "fusion", "conflicts", "statistics")
        lists = ("scenes", "disagreeing_views")
        told = self.gather({name: getattr(outcome, name) for name in ("losses", *shared, *lists)})
        losses = [figures["losses"] for figures in told if figures["losses"]]
        terms = dict.fromkeys(name for of_process in losses for name in of_process)
        outcome.losses = {
            name: sum(of_process.get(name, 0.0) for of_process in losses) / len(losses) for name in terms
        }
        for name in shared:
            setattr(outcome, name, mean_of([figures[name] for figures in told]))
        for name in lists:
            setattr(outcome, name, [item for figures in told for item in figures[name]])


def _union(lists: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(item for items in lists for item in items))


def mean_of(values: Sequence[Any]) -> Any:
    """Mean of numbers, or of the numbers in nested dicts; what a process did not measure is left out. Of
    yes and no: whether it is so on any of them."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        keys = dict.fromkeys(key for value in known for key in value)
        return {key: mean_of([value.get(key) for value in known]) for key in keys}
    if isinstance(known[0], bool):
        return any(known)
    return sum(known) / len(known)
