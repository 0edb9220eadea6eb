"""The seam of the sparse operations: models call these, a backend computes them.

A backend (backends.py) offers `conv(feats, weight, kernel_map)`, differentiable, on the plain integer
tensors of a KernelMap.

Under autocast a backend for GPUs computes in autocast's dtype, with sums in float32. The others stay
in the dtype of the weights (float32); what a CPU gains in a narrower type it gains in use alone
(`narrowed` of a backend). float16, of which the range is what matters, a CPU imitates: what goes into
and comes out of an operation is rounded to it, gradients too, and kept in float32, so that what
overflows or vanishes on a GPU does so here. Features of another dtype are converted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bifusion.sparse.backends import backend_for
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.reference import finished


def sparse_conv(
    feats: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Sparse convolution: out[o] = Σ_k feats[neighbors[o, k]] · weight[k] (+ bias) (+ residual) (ReLU).

    Args:
        feats: (M_in, C_in).
        weight: (K, C_in, C_out), offsets in the order of kernel_map.py.
        kernel_map: submanifold, strided, or (for the inverse convolution) the transposed of one.
        bias: (C_out,) or None.
        residual: (M_out, C_out) or None.
        relu: what is negative becomes 0.

    Returns:
        (M_out, C_out) in the dtype of `compute_dtype`; a voxel without neighbours gets 0 (+ bias).

    Raises:
        ValueError: if feats, weight and map do not fit each other.
    """
    expected = (kernel_map.num_inputs, kernel_map.volume, feats.shape[1])
    if (len(feats), *weight.shape[:2]) != expected:
        raise ValueError(
            f"feats {tuple(feats.shape)} and weight {tuple(weight.shape)} do not fit a kernel map of "
            f"{kernel_map.num_inputs} inputs and {kernel_map.volume} offsets"
        )
    dtype = compute_dtype(feats.device, weight.dtype)
    rounded = rounding(feats.device, dtype)
    with torch.autocast(feats.device.type, enabled=False):
        backend, feats, weight = backend_for(feats.device), rounded(feats.to(dtype)), rounded(weight)
        residual = None if residual is None else residual.to(dtype)
        if not torch.is_grad_enabled():
            return rounded(backend.conv_finished(feats, weight, kernel_map, bias, residual, relu))
        return rounded(finished(backend.conv(feats, weight, kernel_map), bias, residual, relu))


def compute_dtype(device: torch.device, weight_dtype: torch.dtype) -> torch.dtype:
    """What a sparse layer with weights of `weight_dtype` computes in on `device`, and returns."""
    kind = device.type
    narrowed = weight_dtype == torch.float32 and torch.is_autocast_enabled(kind)
    if narrowed and backend_for(device).follows_autocast:
        return torch.get_autocast_dtype(kind)
    return weight_dtype


def rounding(device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """What a sparse layer that computes in `dtype` does to its operands and results: nothing, but where
    autocast wants float16 of a CPU. There each number becomes the nearest that float16 has, infinite
    from 65,520 on and 0 below 3e-8, and so does its gradient in the backward pass."""
    kind = device.type
    if kind != "cpu" or dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        return _as_it_is
    return _as_half if torch.get_autocast_dtype(kind) == torch.float16 else _as_it_is


def _as_half(tensor: Tensor) -> Tensor:
    return tensor.half().to(tensor.dtype)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
