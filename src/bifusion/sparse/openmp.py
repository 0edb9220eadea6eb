"""Lets the C++ engine find the OpenMP runtime that torch has brought into the process.

The engine is not linked against a runtime of its own (CMakeLists.txt). PyTorch's wheels for x86-64 open
theirs for all libraries of the process; those for 64-bit ARM keep it to torch's own.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

_FUNCTION = "GOMP_parallel"
"""What code compiled by GCC calls; LLVM's and Intel's runtimes have it too."""
_NAMES = ("libgomp", "libomp", "libiomp")


def share_runtime() -> None:
    """Opens torch's runtime for libraries that are loaded from now on, where it is not open to them.

    None is loaded that was not there. Where none is found, importing the engine says what it lacks.
    """
    if not sys.platform.startswith("linux") or hasattr(ctypes.CDLL(None), _FUNCTION):
        return
    for path in _loaded():
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | ctypes.RTLD_GLOBAL)
        if hasattr(library, _FUNCTION):
            return


def _loaded() -> list[str]:
    """OpenMP runtimes in this process, those that lie with torch first."""
    try:
        maps = os.fsdecode(Path("/proc/self/maps").read_bytes())  # names of files in any encoding
    except OSError:
        return []
    files = {line.split(maxsplit=5)[5] for line in maps.splitlines() if "/" in line}
    place = str(Path(torch.__file__).parent)  # and torch.libs beside it
    runtimes = [file for file in files if Path(file).name.startswith(_NAMES) and Path(file).is_file()]
    return sorted(runtimes, key=lambda file: (not file.startswith(place), file))
