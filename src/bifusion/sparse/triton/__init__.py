"""The GPU engine: Triton kernels on our kernel maps, behind the functions of `sparse/functional.py`.

| dtype of the features | products | sums |
| --- | --- | --- |
| float32 | IEEE float32, or TF32 where `sparse/precision.py` says so | float32 |
| float16, bfloat16 | in that type | float32 |
| float64 | plain torch's (`reference.py`): for checks, no network runs in it | float64 |

The weights may have a wider dtype than the features (autocast): they are converted on the way in, and
their gradient leaves in their own dtype without ever having been rounded to the narrow one. No
atomics: forward and both gradients are bit-deterministic, on any chip alike. Differentiable once.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from bifusion.sparse import reference
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.precision import dot_precision
from bifusion.sparse.triton import probe
from bifusion.sparse.triton.index import SortedIndex
from bifusion.sparse.triton.launch import convolve, weight_gradient

follows_autocast = True

index_voxels = SortedIndex
keep_freed_memory = reference.keep_freed_memory  # torch's allocator keeps a GPU's
batch_norm = reference.batch_norm
narrowed = reference.narrowed  # it follows autocast
check = probe.check


def describe() -> str:
    return f"own Triton kernels (Triton {triton.__version__})"


def conv(feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """(M_out, C_out) in the dtype of feats (M_in, C_in); weight (K, C_in, C_out) may be wider."""
    if feats.dtype == torch.float64:
        return reference.conv(feats, weight, kernel_map)
    return _Conv.apply(feats, weight, kernel_map)


def conv_finished(
    feats: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """`conv` + bias (C_out,) + residual (M_out, C_out), ReLU; without gradient, in the same launch."""
    if feats.dtype == torch.float64:
        return reference.conv_finished(feats, weight, kernel_map, bias, residual, relu)
    finish = {"bias": bias, "residual": residual, "relu": relu}
    return convolve(feats, weight, kernel_map, dot_precision(), **finish)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.kernel_map, ctx.precision = kernel_map, dot_precision()
        # Held until backward: the way from a map to the one it was transposed from is weak.
        mirrored = kernel_map.center is not None
        ctx.transposed = kernel_map.transposed if ctx.needs_input_grad[0] and not mirrored else None
        return convolve(feats, weight, kernel_map, ctx.precision)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        feats, weight = ctx.saved_tensors
        grad_feats = grad_weight = None
        if ctx.needs_input_grad[0]:
            back = weight.transpose(1, 2)
            if ctx.transposed is None:  # mirrored offsets on the same map spare a second plan
                back, way_back = back.flip(0), ctx.kernel_map
            else:
                way_back = ctx.transposed
            grad_feats = convolve(grad, back, way_back, ctx.precision)
        if ctx.needs_input_grad[1]:
            total = weight_gradient(feats, grad, ctx.kernel_map, ctx.precision)
            grad_weight = total.to(weight.dtype)
        return grad_feats, grad_weight, None
