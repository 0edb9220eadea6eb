"""Sparse convolution in plain torch: runs anywhere, and is what others are held against.

How a convolution is computed. The input rows of all pairs are gathered offset by offset, each group
is multiplied with the weights of its offset, and every output row sums its pairs in a fixed order:

    gathered[p] = feats[in_row(p)]      products[p] = gathered[p] · weight[k(p)]
    out[o] = Σ over pairs p of o        products[p]

and backward the same with the roles exchanged, d weight[k] being gatheredᵀ · (gathered rows of d out).
Only pairs that exist are gathered, not K neighbours a voxel, and nothing but the inputs is kept for
the backward pass; blocks of output rows bound the scratch memory. Summing by row, instead of adding
into rows offset by offset, leaves each output to one thread: deterministic, and on the channel
counts of small networks 2–3 times faster than `index_add_`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.voxel_index import CoordinateIndex

follows_autocast = False


def describe() -> str:
    return "plain torch"


def keep_freed_memory() -> bool:
    """Nothing is changed: False."""
    return False


def index_voxels(coords: Tensor) -> CoordinateIndex:
    """The voxels `coords` (M, 4), searchable; InputError if one is given twice."""
    return CoordinateIndex(coords)


def conv(feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """(M_out, C_out) of feats (M_in, C_in) and weight (K, C_in, C_out); differentiable once."""
    return _Conv.apply(feats, weight, kernel_map)


def conv_finished(
    feats: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """`conv` + bias (C_out,) + residual (M_out, C_out), ReLU; without gradient."""
    return finished(conv(feats, weight, kernel_map), bias, residual, relu)


def narrowed(weight: Tensor, dtype: torch.dtype) -> None:
    """Nothing is faster in another dtype: None."""


def finished(out: Tensor, bias: Tensor | None, residual: Tensor | None, relu: bool) -> Tensor:
    """What `conv_finished` does after the convolution, in place where nobody wants a gradient."""
    if torch.is_grad_enabled() and (out.requires_grad or bias is not None or residual is not None):
        out = out if bias is None else out + bias.to(out.dtype)
        out = out if residual is None else out + residual
        return F.relu(out) if relu else out
    if bias is not None:
        out.add_(bias.to(out.dtype))
    if residual is not None:
        out.add_(residual)
    return out.relu_() if relu else out


def batch_norm(
    feats: Tensor,
    norm: torch.nn.BatchNorm1d,
    training: bool,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """`norm` of feats (M, C), + residual (M, C), ReLU. `training`: with the statistics of `feats`, which
    the running ones learn of; else with the running ones. (The count of batches is the caller's.)"""
    momentum = norm.momentum
    if momentum is None:  # the mean of all batches
        momentum = 1 / float(norm.num_batches_tracked) if training and norm.num_batches_tracked else 0.0
    statistics, line = (norm.running_mean, norm.running_var), (norm.weight, norm.bias)
    out = F.batch_norm(feats, *statistics, *line, training, momentum, norm.eps)
    out = out if residual is None else out + residual
    return F.relu(out, inplace=True) if relu else out


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feats: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.kernel_map = kernel_map
        out = feats.new_empty(kernel_map.num_outputs, weight.shape[2])
        for block in kernel_map.blocks:
            gathered = feats.index_select(0, block.in_rows).split(block.counts)
            products = feats.new_empty(len(block.in_rows), weight.shape[2])
            for rows, kernel, product in zip(
                gathered, weight, products.split(block.counts), strict=True
            ):
                if len(rows):
                    torch.mm(rows, kernel, out=product)
            summed = _sum_rows(products, block.by_output, block.output_ptr)
            out[block.first_row : block.last_row] = summed
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        feats, weight = ctx.saved_tensors
        needs_feats, needs_weight, _ = ctx.needs_input_grad
        grad_feats = torch.zeros_like(feats) if needs_feats else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        for block in ctx.kernel_map.blocks:
            gathered_grad = grad.index_select(0, block.out_rows).split(block.counts)
            if grad_weight is not None:
                gathered = feats.index_select(0, block.in_rows).split(block.counts)
                for rows, grad_rows, total in zip(gathered, gathered_grad, grad_weight, strict=True):
                    if len(rows):
                        total.addmm_(rows.T, grad_rows)
            if grad_feats is not None:
                products = feats.new_empty(len(block.in_rows), feats.shape[1])
                groups = zip(gathered_grad, weight, products.split(block.counts), strict=True)
                for grad_rows, kernel, product in groups:
                    if len(grad_rows):
                        torch.mm(grad_rows, kernel.T, out=product)
                grad_feats += _sum_rows(products, block.by_input, block.input_ptr)
        return grad_feats, grad_weight, None


def _sum_rows(values: Tensor, rows: Tensor, row_ptr: Tensor) -> Tensor:
    """(R, C): sum of values[rows[row_ptr[r]:row_ptr[r+1]]] for each r, in that order."""
    if len(rows) == 0:
        return values.new_zeros(len(row_ptr) - 1, values.shape[1])
    return torch.embedding_bag(values.contiguous(), rows, row_ptr, mode=0, include_last_offset=True)[0]
