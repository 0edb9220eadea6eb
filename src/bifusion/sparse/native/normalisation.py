"""BatchNorm over voxels, with a residual and ReLU in the same passes over memory, both ways.

Statistics are summed in blocks of rows and merged in double, in an order that does not depend on the
number of threads. Plain torch (`reference.batch_norm`) says what is computed, and computes what is rare:
half precision, a norm without weights, and gradients through running statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bifusion.sparse import reference
from bifusion.sparse.native import _native

_WIDTHS = (torch.float32, torch.float64)


def batch_norm(
    feats: Tensor,
    norm: nn.BatchNorm1d,
    training: bool,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """As `reference.batch_norm`; differentiable once."""
    fits = norm.affine and norm.track_running_stats and norm.momentum is not None
    tensors = [norm.weight, norm.running_mean, *([] if residual is None else [residual])] if fits else []
    fits = fits and feats.dtype in _WIDTHS and all(t.dtype == feats.dtype for t in tensors)
    differentiated = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (feats, residual, norm.weight, norm.bias)
    )
    if not fits or len(feats) == 0 or (differentiated and not training):
        return reference.batch_norm(feats, norm, training, residual, relu)
    if not training:
        assert norm.running_mean is not None and norm.running_var is not None
        rows = _rows(norm.running_mean.double(), norm.running_var.double(), norm)
        return _normalise(feats.detach().contiguous(), rows.to(feats.dtype), residual, relu)
    return _BatchNorm.apply(feats, norm.weight, norm.bias, residual, norm, relu)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        feats: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        norm: nn.BatchNorm1d,
        relu: bool,
    ) -> Tensor:
        x = feats.detach().contiguous()
        mean, variance = _moments(x)
        _learn(norm, mean, variance, len(x))
        rows = _rows(mean, variance, norm).to(x.dtype)
        out = _normalise(x, rows, residual, relu)
        # with a residual ReLU's decisions are read in what came out, which the next layer keeps anyway
        ctx.save_for_backward(x, rows, out if relu and residual is not None else None)
        ctx.relu, ctx.has_residual = relu, residual is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None, None]:
        x, rows, out = ctx.saved_tensors
        grad, x_grad = grad.contiguous(), torch.empty_like(x)
        passed = torch.empty_like(x) if out is not None else None
        sums = torch.empty(2, x.shape[1], dtype=torch.float64)
        _native.norm_gradient(
            x, rows, grad, out, ctx.relu, passed, x_grad, sums, torch.get_num_threads()
        )
        of_residual = (grad if passed is None else passed) if ctx.has_residual else None
        of_shift, of_scale = sums.to(x.dtype)
        return x_grad, of_scale, of_shift, of_residual, None, None


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) mean and biased variance of x (M, C), float64."""
    mean = torch.empty(x.shape[1], dtype=torch.float64)
    squares = torch.empty_like(mean)
    _native.moments(x, mean, squares, torch.get_num_threads())
    return mean, squares / len(x)


def _learn(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, rows: int) -> None:
    """Moves the running statistics; that of the variance is of the unbiased one."""
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.momentum is not None
    for running, now in ((norm.running_mean, mean), (norm.running_var, variance * (rows / (rows - 1)))):
        running.copy_(running.double() * (1 - norm.momentum) + now * norm.momentum)


def _rows(mean: Tensor, variance: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """(4, C) float64: mean, scale, shift, and one over the standard deviation."""
    inverse = (variance + norm.eps).rsqrt()
    return torch.stack([mean, inverse * norm.weight.detach(), norm.bias.detach().double(), inverse])


def _normalise(x: Tensor, rows: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    out = torch.empty_like(x)
    added = None if residual is None else residual.detach().contiguous()
    _native.normalise(x, rows, added, relu, out, torch.get_num_threads())
    return out
