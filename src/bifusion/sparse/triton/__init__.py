"""The GPU engine: Triton kernels on our kernel maps, behind the functions of `sparse/functional.py`.

| dtype of the features | products | sums |
| --- | --- | --- |
| float32 | IEEE float32, or TF32 where `precision.py` says so | float32 |
| float16, bfloat16 | in that type | float32 |
| float64 | plain torch's (`reference.py`): for checks, no network runs in it | float64 |

The weights may have a wider dtype than the features (autocast): they are converted on the way in, and
their gradient leaves in their own dtype without ever having been rounded to the narrow one. No
atomics: forward and both gradients are bit-deterministic, on any chip alike. Differentiable once.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
from torch import Tensor

from bifusion.precision import dot_precision
from bifusion.sparse import reference
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.mapped_conv import Conv, Operations
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
    precision = dot_precision()  # the backward's too, whatever is asked for by then
    convolve_so = partial(convolve, precision=precision)
    gradient_so = partial(weight_gradient, precision=precision)
    return Conv.apply(feats, weight, kernel_map, Operations(convolve_so, gradient_so))


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
