"""Whether Triton can compile and launch here, told by its smallest kernel before a run begins.

It compiles for the chip with ptxas, and what launches a kernel with the machine's C compiler and
Python's headers: containers that have a GPU often lack these.
"""

from __future__ import annotations

import subprocess

import torch
from triton.errors import TritonError

from bifusion.device_memory import MOST_LETTERS, is_full
from bifusion.sparse.triton import kernels
from bifusion.sparse.triton.queue import run

FAILURES = (RuntimeError, AssertionError, OSError, ImportError, subprocess.SubprocessError, TritonError)
"""Of its compilers, of what they made when it is loaded, and of the driver."""


def check(device: torch.device | str = "cuda") -> None:
    """ImportError, with the reason, where Triton is installed and cannot compute on `device`."""
    cell = torch.ones(1, dtype=torch.int32, device=device)
    try:
        run(kernels.double, (1,), cell)
        answer = int(cell)
    except FAILURES as error:
        if is_full(error):
            raise
        reason = " ".join(str(error).split())[:MOST_LETTERS]
        raise ImportError(f"it computes nothing here: {type(error).__name__}, {reason}") from error
    if answer != 2:
        raise ImportError(f"it computes wrongly here: twice 1 is {answer}")
