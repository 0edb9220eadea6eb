"""The GPU engine: spconv's gather-multiply-scatter on our kernel maps.

Both spconv-triton and spconv (spconv-cu*) offer `ops.indice_conv` and `ops.indice_conv_backward` on
explicit lists of (input, output) pairs, so that neither coordinates nor tables are searched again;
what differs between us is layout only (spconv_layout.py). Pooling is plain torch's.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bifusion.sparse import reference
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.spconv_layout import from_spconv_weight, pair_lists, to_spconv_weight

_PACKAGES = ("spconv_triton", "spconv")
"""Import names of spconv-triton and spconv; the first that is installed is used."""
_PLAN = "spconv"

avg_pool = reference.avg_pool
index_voxels = reference.index_voxels


def _installed() -> str:
    for package in _PACKAGES:
        if find_spec(package) is not None:
            return package
    raise ImportError("neither spconv-triton nor spconv is installed")


_PACKAGE = _installed()
_ops: Any = importlib.import_module(f"{_PACKAGE}.pytorch.ops")


def describe() -> str:
    return f"{_PACKAGE} on our kernel maps"


def conv(feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """(M_out, C_out) of feats (M_in, C_in) and weight (K, C_in, C_out); differentiable once."""
    return _Conv.apply(feats, weight, kernel_map)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.kernel_map = kernel_map
        if kernel_map.num_outputs == 0 or feats.shape[0] == 0:
            return feats.new_zeros(kernel_map.num_outputs, weight.shape[2])
        pairs, counts = _plan(kernel_map)
        return _ops.indice_conv(
            feats.contiguous(), to_spconv_weight(weight), pairs, counts, kernel_map.num_outputs
        )

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, grad: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        feats, weight = ctx.saved_tensors
        if grad.shape[0] == 0 or feats.shape[0] == 0:
            return torch.zeros_like(feats), torch.zeros_like(weight), None
        pairs, counts = _plan(ctx.kernel_map)
        grad_feats, grad_weight = _ops.indice_conv_backward(
            feats.contiguous(), to_spconv_weight(weight), grad.contiguous(), pairs, counts
        )
        return grad_feats, from_spconv_weight(grad_weight), None


def _plan(kernel_map: KernelMap) -> tuple[Tensor, Tensor]:
    if _PLAN not in kernel_map.plans:
        kernel_map.plans[_PLAN] = pair_lists(kernel_map)
    return kernel_map.plans[_PLAN]
