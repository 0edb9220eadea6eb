"""Activations that are computed again in the backward pass instead of being kept for it.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174 ("activation" or
"gradient checkpointing"). Of each block only its inputs are kept; the backward pass computes the block
from them once more, under the same random numbers and autocast. That must leave no other trace than the
first time did: buffers, which BatchNorm moves, are put back, and who watches modules through hooks asks
`is_recomputing`. Kernel maps belong to the batch and are there already.

The results are the same to the bit; what it costs is the blocks' forward pass.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bifusion.errors import InputError
from bifusion.models.model import Model
from bifusion.models.parts import BY_NAME
from bifusion.sparse.modules import BatchNorm
from bifusion.sparse.shared_norm import SharedNorms
from bifusion.sparse.tensor import SparseTensor


class _Here(threading.local):
    """A backward pass has threads of its own, one a device."""

    recomputing = False


_HERE = _Here()


def is_recomputing() -> bool:
    """A backward pass is computing a block again: modules are called that have been called before."""
    return _HERE.recomputing


def recompute(model: Model, parts: Collection[str]) -> None:
    """From now on the backward pass computes the blocks of these `parts` of `model` again.

    A part that the model has not keeps nothing anyway. Names of modules and parameters stay as they are.
    Raises InputError for a part that does not say what its blocks are.
    """
    for part, blocks in model.recomputable().items():
        if part in parts and not blocks:
            raise InputError(
                f"trainer.recompute: the {BY_NAME[part].label} of this model names no blocks that could "
                f"be computed again (`recomputable`); leave {part!r} out"
            )
        for block in blocks:
            block.__dict__.pop("forward", None)
            if part in parts:
                block.__dict__["forward"] = MethodType(_forward, block)


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The block's own forward, of which only the inputs are kept."""
    compute = partial(type(self).forward, self)
    if not _has_gradient(self, args):
        return compute(*args, **kwargs)
    # sparse tensors enter by their features, so that autograd keeps these where it keeps all
    tensors = [x.feats if isinstance(x, SparseTensor) else x for x in args]
    contexts = partial(_contexts, self)
    again = partial(_of_tensors, compute, args)
    return checkpoint(again, *tensors, use_reentrant=False, context_fn=contexts, **kwargs)


def _of_tensors(compute: Callable[..., Any], args: Any, *tensors: Any, **kwargs: Any) -> Any:
    pairs = zip(args, tensors, strict=True)
    whole = [x.replace(feats) if isinstance(x, SparseTensor) else feats for x, feats in pairs]
    return compute(*whole, **kwargs)


def _has_gradient(block: nn.Module, args: Any) -> bool:
    """Something of the block, or before it, is being trained; else nothing is kept in any case."""
    if not torch.is_grad_enabled():
        return False
    inputs = (x.feats if isinstance(x, SparseTensor) else x for x in args)
    tensors = (x for x in (*inputs, *block.parameters()) if isinstance(x, Tensor))
    return any(x.requires_grad for x in tensors)


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    """Of the first and of the second time."""
    norms = (module for module in block.modules() if isinstance(module, BatchNorm))
    shared = {norm.shared for norm in norms if norm.shared is not None and norm.shared.active}
    return nullcontext(), _EveryTime(partial(_second_time, block, shared))


class _EveryTime:
    """A context manager made anew whenever it is entered: more than one pass may go through a block, as
    gradients that are measured before the step's own do (`step/conflicts.py`)."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._entered = ExitStack()

    def __enter__(self) -> None:
        self._entered.enter_context(self._make())

    def __exit__(self, *error: Any) -> None:
        self._entered.__exit__(*error)


@contextmanager
def _second_time(block: nn.Module, shared: Collection[SharedNorms]) -> Iterator[None]:
    """Buffers are afterwards as before, in place: a signal may end the step in here, and what puts all
    of it back (`step/checks.py`) knows these tensors."""
    buffers = list(block.buffers())
    with torch.no_grad():
        before = [buffer.clone() for buffer in buffers]
    with ExitStack() as stack:
        for norms in shared:
            stack.enter_context(norms.again())
        _HERE.recomputing = True
        try:
            yield
        finally:
            _HERE.recomputing = False
            if buffers:
                with torch.no_grad():
                    torch._foreach_copy_(buffers, before)  # pyright: ignore[reportPrivateImportUsage]
