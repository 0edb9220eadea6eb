"""Sparse layers of other libraries on our kernel maps: spconv-triton's implicit GEMM, and ocnn.

Both take a table of neighbours as ours is, so that what is timed is their kernels and nothing else.
They tune themselves at first use over dozens of candidates, minutes a layer; here each keeps
`CANDIDATES` of its own list, the same for every layer.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from torch import Tensor

from bifusion.sparse.kernel_map import KernelMap

CANDIDATES = 6
SPCONV_BITS = 32
"""Kernels of more offsets have no mask there."""


class SpconvTriton:
    """spconv-triton 1.0: rows sorted by their mask of offsets, in the forward pass and its gradient."""

    name = "spconv-triton"

    def __init__(self, kernel_map: KernelMap, tf32: bool):
        self._gemm: Any = importlib.import_module("spconv_triton.pytorch._impl.gemm")
        constants: Any = importlib.import_module("spconv_triton.constants")
        constants.SPCONV_ALLOW_TF32 = tf32
        _shorten(self._gemm._gather_gemm_kernel, self._gemm._dweight_masked_kernel)
        self.forward_table = kernel_map.neighbors.T.contiguous()
        self.backward_table = kernel_map.transposed.neighbors.T.contiguous()
        self.forward_mask = _sorted_masks(kernel_map.neighbors)
        self.backward_mask = _sorted_masks(kernel_map.transposed.neighbors)
        self.rows = kernel_map.num_outputs, kernel_map.num_inputs

    def weight(self, weight: Tensor) -> Tensor:
        """(C_out, K, C_in) of ours (K, C_in, C_out)."""
        return weight.permute(2, 0, 1).contiguous()

    def forward(self, feats: Tensor, weight: Tensor) -> Tensor:
        mask, order = self.forward_mask
        return self._gemm.conv_forward(
            feats, weight, self.forward_table, self.rows[0], pair_mask=mask, mask_argsort=order
        )

    def backward(self, feats: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        mask, order = self.backward_mask
        grad_feats = self._gemm.conv_backward_input(
            grad, weight, self.backward_table, self.rows[1], pair_mask=mask, mask_argsort=order
        )
        grad_weight = self._gemm.conv_backward_weight(feats, grad, self.forward_table, weight.shape)
        return grad_feats, grad_weight.permute(1, 2, 0)


class Ocnn:
    """ocnn's Triton convolution: every offset for every row, the reduction split; centred maps alone."""

    name = "ocnn"

    def __init__(self, kernel_map: KernelMap, tf32: bool):
        if kernel_map.center is None:
            raise NotImplementedError("ocnn's table serves forward and backward on one set of voxels")
        os.environ["OCNN_ALLOW_TF32"] = "1"
        self._kernels: Any = importlib.import_module("ocnn.nn.kernels")
        settings: Any = importlib.import_module("ocnn.nn.kernels.config")
        settings.allow_tf32 = tf32
        self.table = kernel_map.neighbors.contiguous()

    def weight(self, weight: Tensor) -> Tensor:
        """(C_out, K, C_in) of ours (K, C_in, C_out)."""
        return weight.permute(2, 0, 1).contiguous()

    def forward(self, feats: Tensor, weight: Tensor) -> Tensor:
        return self._kernels.conv_fwd_implicit_gemm_splitk(feats, weight, None, self.table)

    def backward(self, feats: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        grad_feats, grad_weight, _ = self._kernels.conv_bwd_implicit_gemm_splitk(
            grad, feats, weight, None, self.table, (True, True, False)
        )
        return grad_feats, grad_weight.permute(1, 2, 0)


PEERS = {SpconvTriton.name: SpconvTriton, Ocnn.name: Ocnn}


def _sorted_masks(neighbors: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """(M,) int32 masks of offsets in ascending order and the rows in that order; None beyond 32."""
    if neighbors.shape[1] > SPCONV_BITS:
        return None, None
    bits = torch.arange(neighbors.shape[1], device=neighbors.device)
    masks = ((neighbors >= 0).long() << bits).sum(1)
    ordered, order = masks.sort()
    # as a signed 32-bit word, which is what its kernel reads
    wrapped = torch.where(ordered >= 2**31, ordered - 2**32, ordered)
    return wrapped.int(), order.int()


def _shorten(*kernels: Any) -> None:
    for kernel in kernels:
        tuner = kernel
        while not hasattr(tuner, "configs"):
            tuner = tuner.fn
        tuner.configs = tuner.configs[:CANDIDATES]
