"""Follows gradients back through a step, node by node, to where they stop being finite.

Modules' own backward hooks do not see sparse tensors and forbid in-place operations, so the nodes of
autograd's graph are watched instead. A node belongs to the module in whose call it was made: after
each call the graph is walked back from its outputs to nodes that are known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from bifusion.diagnosis.calls import Call, Origin, operation_name, part_of
from bifusion.diagnosis.operations import Place, place_of
from bifusion.diagnosis.ranges import Range, all_finite

_FRAME = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>\S+)')


class GradientWatch:
    """Hooks on nodes and tensors of one step's graph; `measure` gives the range of gradients."""

    def __init__(self, measure: Callable[[list[Tensor]], Range | None]):
        self.origin: Origin | None = None
        """First finite gradient that became a non-finite one, in order of the way back."""
        self._measure = measure
        self._nodes: dict[Any, tuple[Call, ...]] = {}
        """Known nodes, and the calls in which each was made, the outermost first; holding nodes keeps
        their identity."""
        self._closed = False

    def close(self) -> None:
        """Nothing is recorded any more, and the graph is let go."""
        self._closed = True
        self._nodes.clear()

    def blame(self, call: Call, operation: str) -> None:
        """Names the origin, unless there is one."""
        if self.origin is None and not self._closed:
            self._found(call, operation, None)

    def claim(
        self,
        tensors: Iterable[Tensor],
        calls: Sequence[Call],
        *,
        term: str | None = None,
        owners: Mapping[int, str] | None = None,
    ) -> None:
        """All nodes before `tensors` that are not known yet belong to the last of `calls` (and loss
        `term`), which the others are around.

        `owners`: module of each parameter, by id, whose accumulation is the module's own.
        """
        waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
        while waiting:
            node = waiting.pop()
            if node is None or node in self._nodes:
                continue
            self._nodes[node] = tuple(calls)
            self._watch(node, calls[-1], term, owners or {})
            waiting += [before for before, _ in node.next_functions]

    def follow(self, tensors: Iterable[Tensor], call: Call, side: Literal["input", "output"]) -> None:
        """Looks at the gradients of a call's tensors, in the order in which hooks were put on them."""
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: self._passing(gradient, call, side))

    def _watch(self, node: Any, call: Call, term: str | None, owners: Mapping[int, str]) -> None:
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in owners:
            call = Call(owners[id(variable)], "parameter")

        def look(given: tuple[Tensor | None, ...], received: tuple[Tensor | None, ...]) -> None:
            self._hand_on(node, given)
            if self.origin is not None or self._closed:
                return
            sound = all_finite(received)
            if sound and all_finite(given):
                return
            name = f"{operation_name(node.name())} backward"
            self._found(call, name if sound else f"gradient that reaches {name}", _place(node), term)

        node.register_hook(look)

    def _hand_on(self, node: Any, given: tuple[Tensor | None, ...]) -> None:
        """Takes in what leaves calls at this node: it goes to nodes that were not made in them."""
        if self._closed:
            return
        calls = self._nodes[node]
        for (before, _), gradient in zip(node.next_functions, given, strict=True):
            beyond = self._nodes.get(before)
            if gradient is None or beyond is None or hasattr(before, "variable"):
                continue  # of a weight: it goes nowhere from there
            left = [call for call in calls if not any(call is other for other in beyond)]
            range_ = self._measure([gradient]) if left else None
            if range_ is not None:
                for call in left:
                    call.grad_input = _wider(call.grad_input, range_)

    def _passing(self, gradient: Tensor, call: Call, side: str) -> None:
        if self._closed:
            return
        range_ = self._measure([gradient]) if side == "output" else None
        if range_ is not None:
            call.grad_output = _wider(call.grad_output, range_)
        if self.origin is None and not all_finite([gradient]):
            self._found(call, f"gradient of its {side}", None)

    def _found(self, call: Call, operation: str, place: Place | None, term: str | None = None) -> None:
        self.origin = Origin(part_of(call, place), operation, place, "backward", call, term)


def _place(node: Any) -> Place | None:
    """Line that made the node, where autograd noted it."""
    for entry in reversed(node.metadata.get("traceback_", [])):
        match = _FRAME.search(entry)
        place = match and place_of(match["file"], int(match["line"]), match["function"])
        if place:
            return place
    return None


def _wider(first: Range | None, second: Range) -> Range:
    """The one that is less finite, or larger."""
    if first is None or second.finite < first.finite:
        return second
    return first if first.finite < second.finite or first.rms >= second.rms else second
