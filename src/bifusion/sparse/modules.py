"""Layers on sparse tensors. Kernels have shape (k³, in, out), offsets ordered as in kernel_map.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bifusion.errors import InputError
from bifusion.sparse.backends import backend_for
from bifusion.sparse.functional import compute_dtype, rounding, sparse_conv
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.reference import finished
from bifusion.sparse.shared_norm import SharedNorms
from bifusion.sparse.tensor import SparseTensor


class _Conv3d(nn.Module):
    """Weights of a sparse convolution, initialised as spconv does: ±1/√(k³·in); MinkowskiEngine takes
    the output channels in its transposed convolutions."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = False
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(kernel_size**3, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()
        self.narrowed: Callable[..., Tensor] | None = None
        """The backend's convolution with the weights in a narrower type, where that is faster in use."""

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[0] * self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def _conv(self, feats: Tensor, kernel_map: KernelMap, residual: Tensor | None, relu: bool) -> Tensor:
        if self.narrowed is not None and not torch.is_grad_enabled():
            return self.narrowed(feats, kernel_map, self.bias, residual, relu)
        return sparse_conv(feats, self.weight, kernel_map, self.bias, residual=residual, relu=relu)

    def extra_repr(self) -> str:
        _, channels_in, channels_out = self.weight.shape
        bias = self.bias is not None
        return f"{channels_in}, {channels_out}, kernel_size={self.kernel_size}, bias={bias}"


class SubmanifoldConv3d(_Conv3d):
    """Convolution whose output voxels are its input voxels: (in_channels, out_channels, kernel_size,
    bias=False). Kernel size 1 is a linear layer."""

    def forward(
        self, x: SparseTensor, *, residual: Tensor | None = None, relu: bool = False
    ) -> SparseTensor:
        """Features (M, out_channels) of `x`'s voxels, + residual (M, out_channels), then ReLU."""
        if self.kernel_size == 1 and self.narrowed is None:
            return x.replace(finished(_linear(x.feats, self.weight[0], self.bias), None, residual, relu))
        kernel_map = x.maps.submanifold(x.stride, self.kernel_size)
        return x.replace(self._conv(x.feats, kernel_map, residual, relu))


class _Conv3dBetweenLevels(_Conv3d):
    """Between voxels and others `stride` times larger."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 2,
        stride: int = 2,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias)
        self.stride = stride


class StridedConv3d(_Conv3dBetweenLevels):
    """Convolution onto voxels `stride` times larger, floor(coord / stride) of the input's:
    (in_channels, out_channels, kernel_size=2, stride=2, bias=False)."""

    def forward(
        self, x: SparseTensor, *, residual: Tensor | None = None, relu: bool = False
    ) -> SparseTensor:
        """Features of the larger voxels, + residual of theirs, then ReLU."""
        kernel_map = x.maps.strided(x.stride, self.kernel_size, self.stride)
        return x.at(x.stride * self.stride, self._conv(x.feats, kernel_map, residual, relu))


class InverseConv3d(_Conv3dBetweenLevels):
    """Convolution back onto the finer voxels that a StridedConv3d of the same sizes came from:
    (in_channels, out_channels, kernel_size=2, stride=2, bias=False).

    spconv's SparseInverseConv3d, and MinkowskiEngine's transposed convolution onto known voxels:
    fine voxel f meets coarse voxel c under the offset with f = c·stride + offset. InputError for voxels
    that come from no finer ones.
    """

    def forward(
        self, x: SparseTensor, *, residual: Tensor | None = None, relu: bool = False
    ) -> SparseTensor:
        """Features of the finer voxels, + residual of theirs, then ReLU."""
        fine = x.stride // self.stride
        if not x.maps.knows(fine) or fine * self.stride != x.stride:
            raise InputError(
                f"x: found voxels of stride {x.stride}, and none of stride "
                f"{x.stride / self.stride:g} that they come from; an InverseConv3d with stride "
                f"{self.stride} takes what a StridedConv3d of the same stride made"
            )
        kernel_map = x.maps.strided(fine, self.kernel_size, self.stride).transposed
        return x.at(fine, self._conv(x.feats, kernel_map, residual, relu))


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d over voxels that also takes fewer than two of them, a residual, and ReLU.

    One row has no variance, and torch raises in training. The coarsest level of a small scene can
    well be one voxel: such a row is normalised with the running statistics, which stay untouched.
    """

    shared: SharedNorms | None = None
    """Where the voxels of a run's other processes are counted too."""

    def forward(self, input: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """(M, C): `input` (M, C) normalised, + residual (M, C), ReLU: one pass over memory."""
        shared = self.shared
        if self.training and shared is not None and (shared.active or shared.repeats):
            return finished(shared.normalise(self, input), None, residual, relu)
        training = self.training and len(input) >= 2
        if training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return backend_for(input.device).batch_norm(input, self, training, residual, relu)


def _linear(feats: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Kernel size 1, in the dtype of every sparse convolution."""
    dtype = compute_dtype(feats.device, weight.dtype)
    rounded = rounding(feats.device, dtype)
    with torch.autocast(feats.device.type, enabled=False):
        feats, weight = rounded(feats.to(dtype)), rounded(weight.to(dtype))
        return rounded(feats @ weight if bias is None else torch.addmm(bias.to(dtype), feats, weight))
