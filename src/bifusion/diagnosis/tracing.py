"""Follows a step through a model: ranges of every module, and where non-finite numbers came from.

Hooks on every module see what goes in and out, in order of execution; the first whose output is not
finite though its inputs are is the origin. Code between modules (lifting, pooling, the fusion's mix)
counts as the module that runs it. On the way back `backward_trace.py` does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bifusion.diagnosis.backward_trace import GradientWatch
from bifusion.diagnosis.calls import CRITERION, WHOLE_MODEL, Call, Origin, operation_name, part_of
from bifusion.diagnosis.operations import Made, OperationWatch
from bifusion.diagnosis.ranges import Range, all_finite, float_tensors, range_of
from bifusion.models.recompute import is_recomputing


class Tracer:
    """Use as a context manager around one step; hooks are gone afterwards, whatever happens.

    Args:
        ranges: measure ranges; off, only finite or not is looked at.
        operations: watch single operations of the forward pass.
        lines: let autograd note which line made each of its nodes, so that those of the way back have
            one too; with `operations`, unless it is known that the way back is not to blame.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        ranges: bool = True,
        operations: bool = False,
        lines: bool | None = None,
    ):
        self.model, self.ranges = model, ranges
        self.calls: list[Call] = []
        """In the order in which they ended; an inner call comes before the one around it."""
        self.forward_origin: Origin | None = None
        self.gradients = GradientWatch(self._measure)
        self._names = {module: name or WHOLE_MODEL for name, module in model.named_modules()}
        self._owners = {
            id(parameter): self._names[module]
            for module in self._names
            for parameter in module.parameters(recurse=False)
        }
        self._watch = OperationWatch(self._made) if operations else None
        self._lines = operations if lines is None else lines
        self._stack: list[Call] = []
        self._counts: dict[str, int] = {}
        self._handles: list[Any] = []
        self._modes = ExitStack()

    def __enter__(self) -> Tracer:
        if self._lines:
            self._modes.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
        if self._watch is not None:
            self._modes.callback(self._watch.watch, False)
        for module in self._names:
            self._handles += [
                module.register_forward_pre_hook(_once(self._begin), prepend=True, with_kwargs=True),
                module.register_forward_pre_hook(_once(self._enter), with_kwargs=True),
                module.register_forward_hook(_once(self._leave), with_kwargs=True),
            ]
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.gradients.close()

    @contextmanager
    def part(self, name: str, inputs: Any) -> Iterator[None]:
        """A computation outside of the modules, traced like one."""
        with self._aside():
            self._open(name, name, inputs, leaf=True)
        try:
            yield
        finally:
            self._close()

    def take_terms(self, terms: dict[str, Tensor]) -> None:
        """Loss terms of a part just left: which of autograd's nodes belong to which term."""
        for name, term in terms.items():
            self.gradients.claim([term], [Call(CRITERION, CRITERION)], term=name)

    def blame_criterion(self, term: str | None) -> None:
        """Names the criterion as the origin: of the loss term `term`, or of a matching cost."""
        call = next((call for call in reversed(self.calls) if call.module == CRITERION), None)
        if self.forward_origin is None and call is not None:
            self.forward_origin = self._origin(call, [], term)

    @property
    def origin(self) -> Origin | None:
        """Forward comes before backward."""
        return self.forward_origin or self.gradients.origin

    def check_parameters(self) -> None:
        """After the way back: a gradient that only its accumulation over batches made non-finite."""
        for parameter in self.model.parameters():
            if not all_finite([parameter.grad]):
                call = Call(self._owners[id(parameter)], "parameter")
                self.gradients.blame(call, "accumulation of gradients")
                return

    # --------------------------------------------------------------------------------------- hooks

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Looking at tensors is no part of the model; only while a call is open is one at work."""
        if self._watch is not None:
            self._watch.watch(False)
        with torch.no_grad():
            yield
        if self._watch is not None:
            self._watch.watch(bool(self._stack))

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Before any other hook of the module: what it is given is the work of the one around it."""
        with self._aside():
            tensors = float_tensors((args, kwargs))
            outer = self._stack[-1] if self._stack else None
            if outer is not None:
                self.gradients.claim(tensors, self._stack, owners=self._owners)
                if self.forward_origin is None and not all_finite(tensors):
                    self.forward_origin = self._origin(outer, tensors)
            leaf = next(module.children(), None) is None
            self._open(self._names[module], type(module).__name__, None, leaf)

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """After any other hook: what the module really sees."""
        with self._aside():
            call, tensors = self._stack[-1], float_tensors((args, kwargs))
            call.inputs = self._measure(tensors)
            self.gradients.follow(tensors, call, "input")
            if self.forward_origin is None and len(self._stack) > 1 and not all_finite(tensors):
                self.forward_origin = self._origin(call, tensors)

    def _leave(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        with self._aside():
            call, tensors = self._stack[-1], float_tensors(output)
            call.output = self._measure(tensors)
            self.gradients.claim(tensors, self._stack, owners=self._owners)
            self.gradients.follow(tensors, call, "output")
            if self.forward_origin is None and not all_finite(tensors):
                self.forward_origin = self._origin(call, tensors)
            self.calls.append(call)
            self._stack.pop()

    def _close(self) -> None:
        with self._aside():
            self._stack.pop()

    def _open(self, name: str, kind: str, inputs: Any, leaf: bool) -> None:
        number = self._counts.get(name, 0)
        self._counts[name] = number + 1
        begun, given = sum(self._counts.values()) - 1, self._measure(float_tensors(inputs))
        call = Call(name, kind, number, begun, len(self._stack), leaf, given)
        self._stack.append(call)
        if name == CRITERION:
            self.calls.append(call)

    def _measure(self, tensors: list[Tensor]) -> Range | None:
        return range_of(tensors) if self.ranges else None

    def _made(self, made: Made) -> None:
        if self._stack and self._stack[-1].made is None:
            self._stack[-1].made = made

    def _origin(self, call: Call, outputs: list[Tensor], term: str | None = None) -> Origin:
        made = call.made
        if made is None:
            operation = self._bad_weights(call.module) or _hidden_operation(outputs)
            return Origin(call.module, operation, None, "forward", call, term)
        owner = None if made.owner is None else self._names.get(made.owner)
        module = part_of(call, made.place)
        # code of an inner module that was entered by another method than its forward
        within = call.module == WHOLE_MODEL or str(owner).startswith(f"{call.module}.")
        if module == call.module and owner is not None and within:
            module = owner
        return Origin(module, made.operation, made.place, "forward", call, term)

    def _bad_weights(self, module: str) -> str | None:
        """Says so if the module's own weights are not finite: no operation makes them so."""
        if module not in self._names.values():
            return None
        parts = self.model.get_submodule("" if module == WHOLE_MODEL else module)
        bad = [name for name, p in parts.named_parameters(recurse=False) if not all_finite([p])]
        return f"{', '.join(bad)} not finite" if bad else None


def _once(hook: Callable[..., None]) -> Callable[..., None]:
    """`hook` of a forward pass alone: what the backward pass computes again has been seen."""

    def heed(*call: Any) -> None:
        if not is_recomputing():
            hook(*call)

    return heed


def _hidden_operation(outputs: list[Tensor]) -> str | None:
    """Operations of the C++ engine are not seen; autograd knows what made a tensor all the same."""
    for tensor in outputs:
        if tensor.grad_fn is not None and not all_finite([tensor]):
            return operation_name(tensor.grad_fn.name())
    return None
