"""Blocks of image tower and decoder under torch.compile: fewer launches, less traffic of memory.

Block by block ("regional compilation"): blocks of one kind share what is compiled, sizes are symbolic,
and what lies between blocks (scenes, queries, choices of rows) stays as it is. In place, so that names
of modules, parameters and checkpoints do not change. Results change in the last bits.

What looks into blocks (diagnosis, replay, what a part keeps) and what runs share (maps of views that
are kept) runs them uncompiled: `eager`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from bifusion.device_memory import MOST_LETTERS, is_full
from bifusion.errors import InputError
from bifusion.models.model import Model
from bifusion.models.parts import BY_NAME

FAILURES = (RuntimeError, OSError, ImportError, subprocess.SubprocessError)
"""Of torch's compiler, of the compilers that it calls, and where what they made is loaded."""
_NEEDS = {"cpu": "a C++ compiler (g++) and Python's headers (python3-dev)"}
_NEEDS_OF_GPU = "Triton, a C compiler and Python's headers (gcc, python3-dev)"


def compile_blocks(
    model: Model, parts: Collection[str], device: torch.device, backend: str = "inductor"
) -> None:
    """From now on the blocks of these `parts` of `model`, which is on `device`, are compiled when they
    are first called; a part that the model has not is passed by.

    Raises InputError where nothing can be compiled for `device`, and for a part without blocks.
    """
    if not parts:
        return
    _check_compiler(device, backend)
    _allow_several_ways_back()
    for part, blocks in model.recomputable().items():
        if part in parts and not blocks:
            raise InputError(
                f"trainer.compile: the {BY_NAME[part].label} of this model names no blocks "
                f"(`recomputable`); leave {part!r} out"
            )
        for block in blocks if part in parts else ():
            block.compile(dynamic=True, backend=backend)


def eager(model: nn.Module) -> AbstractContextManager[Any]:
    """In this block compiled modules of `model` run as they are written, with all hooks on what is in
    them."""
    if all(module._compiled_call_impl is None for module in model.modules()):
        return nullcontext()  # torch's compiler takes a second to import
    return torch.compiler.set_stance("force_eager")


def _allow_several_ways_back() -> None:
    """A compiled way back gives memory of its own away unless told not to, and is good for one pass;
    the cosines between loss terms (step/conflicts.py) go the way of each before the step goes it."""
    from torch._functorch import config  # of the compiler, which most processes have no need of

    settings: Any = config
    settings.donated_buffer = False


def _check_compiler(device: torch.device, backend: str) -> None:
    """A function of one line is compiled and run: else a run would end in its first step."""
    try:
        double: Any = torch.compile(_double, dynamic=True, backend=backend)
        double(torch.ones(3, device=device))
    except FAILURES as error:
        if is_full(error):
            raise
        told = " ".join(str(error).partition("Set TORCHDYNAMO")[0].split())[:MOST_LETTERS]
        needs = _NEEDS.get(device.type, _NEEDS_OF_GPU)
        raise InputError(
            f"trainer.compile: torch.compile makes nothing for {device.type} here "
            f"({type(error).__name__}: {told}); it needs {needs}. Install them, or leave "
            "--trainer.compile out"
        ) from error


def _double(x: torch.Tensor) -> torch.Tensor:
    return x + x
