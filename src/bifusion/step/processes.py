"""What the processes of a run tell each other during a step, so that all act alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from bifusion.step.events import PHASES, Fault
from bifusion.step.outcome import StepOutcome
from bifusion.step.runtime import average_gradients, on_any_process


class Processes:
    """The processes of `fabric`; on a single one nothing is exchanged."""

    def __init__(self, fabric: Fabric):
        self.fabric = fabric
        self._alone = False

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

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean gradients over all processes."""
        if self.several:
            average_gradients(self.fabric, parameters)

    def average(self, outcome: StepOutcome) -> None:
        """Makes the outcome that of all processes: means of what each measured on its own scenes."""
        if not self.several:
            return
        shared = ("losses", "total", "fusion", "conflicts", "statistics")
        lists = ("scenes", "disagreeing_views")
        told = self.gather({name: getattr(outcome, name) for name in (*shared, *lists)})
        for name in shared:
            setattr(outcome, name, _mean([figures[name] for figures in told]))
        for name in lists:
            setattr(outcome, name, [item for figures in told for item in figures[name]])


def _union(lists: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(item for items in lists for item in items))


def _mean(values: Sequence[Any]) -> Any:
    """Mean of numbers, or of the numbers in nested dicts; what a process did not measure is left out."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        keys = dict.fromkeys(key for value in known for key in value)
        return {key: _mean([value.get(key) for value in known]) for key in keys}
    return sum(known) / len(known)
