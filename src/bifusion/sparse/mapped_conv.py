"""The gradient of an engine's convolution, which is a convolution and a sum over pairs again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bifusion.sparse.kernel_map import KernelMap

Operation = Callable[[Tensor, Tensor, KernelMap], Tensor]


class Conv(torch.autograd.Function):
    """(M_out, C_out) of feats (M_in, C_in) and weight (K, C_in, C_out); differentiable once.

    `convolve(feats, weight, kernel_map)` and `weight_gradient(feats, grad, kernel_map)` are an
    engine's, neither recorded. A diagnosis names the operation by this class: conv.
    """

    @staticmethod
    def forward(
        ctx,
        feats: Tensor,
        weight: Tensor,
        kernel_map: KernelMap,
        convolve: Operation,
        weight_gradient: Operation,
    ) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.kernel_map, ctx.convolve, ctx.weight_gradient = kernel_map, convolve, weight_gradient
        # Held until backward: the way from a map to the one it was transposed from is weak.
        mirrored = kernel_map.center is not None
        ctx.transposed = kernel_map.transposed if ctx.needs_input_grad[0] and not mirrored else None
        return convolve(feats, weight, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        feats, weight = ctx.saved_tensors
        grad_feats = grad_weight = None
        if ctx.needs_input_grad[0]:
            back = weight.transpose(1, 2)
            if ctx.transposed is None:  # mirrored offsets on the same map spare a second plan
                grad_feats = ctx.convolve(grad, back.flip(0), ctx.kernel_map)
            else:
                grad_feats = ctx.convolve(grad, back, ctx.transposed)
        if ctx.needs_input_grad[1]:
            grad_weight = ctx.weight_gradient(feats, grad, ctx.kernel_map).to(weight.dtype)
        return grad_feats, grad_weight, None, None, None
