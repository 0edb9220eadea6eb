"""The gradient of an engine's convolution, which is a convolution and a sum over pairs again."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bifusion.sparse.kernel_map import KernelMap

Operation = Callable[[Tensor, Tensor, KernelMap], Tensor]


def turned(weight: Tensor, mirrored: bool) -> Tensor:
    """(K, C_out, C_in) of weight (K, C_in, C_out), `mirrored`: with the offset across the centre."""
    back = weight.transpose(1, 2)
    return back.flip(0) if mirrored else back


class Operations(NamedTuple):
    """An engine's, none of them recorded."""

    convolve: Operation
    """Of feats, weight, kernel map."""
    weight_gradient: Operation
    """Of feats, gradient of what came out, kernel map."""
    turned: Callable[[Tensor, bool], Tensor] = turned


class Conv(torch.autograd.Function):
    """(M_out, C_out) of feats (M_in, C_in) and weight (K, C_in, C_out); differentiable once.

    A diagnosis names the operation by this class: conv.
    """

    @staticmethod
    def forward(
        ctx,
        feats: Tensor,
        weight: Tensor,
        kernel_map: KernelMap,
        operations: Operations,
    ) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.kernel_map, ctx.operations = kernel_map, operations
        # Held until backward: the way from a map to the one it was transposed from is weak.
        mirrored = kernel_map.center is not None
        ctx.transposed = kernel_map.transposed if ctx.needs_input_grad[0] and not mirrored else None
        return operations.convolve(feats, weight, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        feats, weight = ctx.saved_tensors
        operations, grad_feats, grad_weight = ctx.operations, None, None
        if ctx.needs_input_grad[0]:  # mirrored offsets on the same map spare a second plan
            mirrored = ctx.transposed is None
            back = ctx.kernel_map if mirrored else ctx.transposed
            grad_feats = operations.convolve(grad, operations.turned(weight, mirrored), back)
        if ctx.needs_input_grad[1]:
            grad_weight = operations.weight_gradient(feats, grad, ctx.kernel_map).to(weight.dtype)
        return grad_feats, grad_weight, None, None
