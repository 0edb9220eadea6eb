"""Which code computes the sparse operations on a device: chosen once, announced, forced by a variable.

| name | runs on | what it is |
| --- | --- | --- |
| native | CPU | the C++ engine of `sparse/native`, the default where it was built |
| triton | CUDA | Triton kernels, `sparse/triton`; the default where Triton is (torch brings it) |
| torch | any | plain torch, `sparse/reference.py` |
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.sparse import reference
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.voxel_index import VoxelIndex

BACKEND_VARIABLE = "BIFUSION_SPARSE_BACKEND"
"""Environment variable that forces a backend by name."""

_FAST = {"cpu": "native", "cuda": "triton"}
"""The backend that a kind of device runs on unless it is missing."""
_REMEDIES = {
    "native": "install a C++ compiler that knows C++17 (GCC 8, clang 7 or newer) and reinstall "
    "bifusion, with pip install --force-reinstall --no-deps and the path or name it was installed from",
    "triton": "pip install triton in the version that fits this torch (triton-windows on Windows); it "
    "wants a C compiler and Python's headers (gcc and python3-dev) to launch what it compiles",
}
_logger = logging.getLogger("bifusion.sparse")


@runtime_checkable
class Backend(Protocol):
    """What computes the operations; gradients included. The functions of reference.py say what."""

    follows_autocast: bool
    """Under autocast: features come in its dtype, float32 weights as they are. Else both in theirs."""

    def index_voxels(self, coords: Tensor) -> VoxelIndex: ...

    def conv(self, feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor: ...

    def conv_finished(
        self,
        feats: Tensor,
        weight: Tensor,
        kernel_map: KernelMap,
        bias: Tensor | None,
        residual: Tensor | None,
        relu: bool,
    ) -> Tensor: ...

    def narrowed(self, weight: Tensor, dtype: torch.dtype) -> Callable[..., Tensor] | None:
        """`conv_finished` of `weight`, kept as products in `dtype` want it; None: that gains nothing."""
        ...

    def batch_norm(
        self,
        feats: Tensor,
        norm: nn.BatchNorm1d,
        training: bool,
        residual: Tensor | None,
        relu: bool,
    ) -> Tensor: ...

    def keep_freed_memory(self) -> bool: ...

    def describe(self) -> str: ...


def backend_for(device: torch.device) -> Backend:
    """The backend that serves `device`; the first call for a kind of device logs which one it is.

    Raises:
        InputError: if BIFUSION_SPARSE_BACKEND names one that is unknown, does not run on this kind of
            device, or is not installed.
    """
    return _choose(device.type, os.environ.get(BACKEND_VARIABLE, ""))


def describe_backend(device: torch.device) -> str:
    """One line for people: what computes the sparse operations on `device`."""
    return f"sparse operations on {device.type}: {backend_for(device).describe()}"


@cache
def _choose(kind: str, forced: str) -> Backend:
    backend = _forced(kind, forced) if forced else _default(kind)
    _logger.info("sparse operations on %s: %s", kind, backend.describe())
    return backend


def _default(kind: str) -> Backend:
    fast = _FAST.get(kind, "torch")
    try:
        return _load(fast)
    except ImportError as error:
        _logger.warning(
            "sparse operations on %s run on plain torch, several times slower: %s cannot be used (%s). "
            "To get it: %s.", kind, fast, error, _REMEDIES[fast]
        )  # fmt: skip
        return reference


def _forced(kind: str, name: str) -> Backend:
    fitting = ["torch", *([_FAST[kind]] if kind in _FAST else [])]
    if name not in fitting:
        raise InputError(
            f"{BACKEND_VARIABLE}: found {name!r}; expected one of {', '.join(fitting)} for tensors on "
            f"{kind}, or leave it unset"
        )
    try:
        return _load(name)
    except ImportError as error:
        raise InputError(
            f"{BACKEND_VARIABLE}: found {name!r}, which cannot be used ({error}); expected an "
            f"installed backend: {_REMEDIES[name]}; or set it to torch"
        ) from error


def _load(name: str) -> Backend:
    """Imported when wanted: either may be missing, and both take their time. ImportError also for a
    Triton that is broken."""
    if name == "native":
        from bifusion.sparse import native

        return native
    if name == "triton":
        from bifusion.sparse import triton

        triton.check()
        return triton
    return reference
