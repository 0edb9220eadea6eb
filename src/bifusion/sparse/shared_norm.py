"""BatchNorm over the voxels of all processes of a run, as one process has it on all their scenes.

Statistics go round as (sum, sum of squares, count), so a process may have any number of voxels, none
too. Two exchanges a norm and step: statistics on the way forward, gradients on the way back. All
processes must come to each of them, whatever their scenes: that is what a chain of tokens is for. A
norm hands a 0 of its own to the next one and the last to the loss, so that the backward pass comes to
every norm, in the same order, also where nothing of a scene reaches the loss. Without it such a scene
leaves the other processes waiting for ever (NeuralRecon issue 139, former3d issue 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


def _nothing() -> None:
    pass


class SharedNorms:
    """What the norms of a model tell those of the other processes; one for all norms of a model."""

    def __init__(self, after_backward: Callable[[], None] = _nothing):
        """`after_backward` is called after each exchange of a backward pass, which all processes come to
        alike."""
        self.after_backward = after_backward
        self.active = False
        """Norms are computed over all processes."""
        self.repeats = False
        """Norms are computed as they last were, without an exchange."""
        self.measures = False
        """Backward passes exchange nothing."""
        self._made: dict[nn.BatchNorm1d, tuple[Tensor, ...]] = {}
        """What the last forward pass normalised by."""
        self._counts = True
        self._token: Tensor | None = None

    @contextmanager
    def together(self, *, counts: bool = True) -> Iterator[None]:
        """A forward pass of all processes. Where it does not count (`Batch.counts`), this process's
        voxels are normalised like those of the others and enter no statistics."""
        self.active, self._counts, self._token = True, counts, None
        try:
            yield
        finally:
            self.active = False

    @contextmanager
    def again(self) -> Iterator[None]:
        """Norms of the last forward pass are computed once more, in a backward pass and so in another
        order: each with the statistics that it had, of which nothing is learned a second time."""
        self.repeats = True
        try:
            yield
        finally:
            self.repeats = False

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Backward passes in this block only measure, on this process perhaps alone: the gradient of a
        norm's input takes in the voxels that are here."""
        self.measures = True
        try:
            yield
        finally:
            self.measures = False

    def tied(self, loss: Tensor) -> Tensor:
        """`loss` (), the same number, whose backward pass comes to every norm of the last forward."""
        token, self._token = self._token, None
        return loss if token is None else loss + token.to(loss.dtype)

    def normalise(self, norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
        """(M, C) like `x`: what `norm` makes of it in training; moves the running statistics.

        Where all processes together have fewer than two voxels, which have no variance, the running
        statistics serve and stay (`sparse.modules.BatchNorm`).
        """
        token = None if self.repeats else self._token
        if token is None:
            token = x.new_zeros((), dtype=torch.float32)
        statistics = self._made[norm] if self.repeats else self._exchanged(norm, x.detach())
        made: tuple[Tensor, Tensor] = _Normalise.apply(
            x, norm.weight, norm.bias, token, *statistics, self
        )
        if self.repeats:
            return made[0]
        self._made[norm] = statistics
        out, self._token = made
        return out

    def _exchanged(self, norm: nn.BatchNorm1d, x: Tensor) -> tuple[Tensor, ...]:
        """Mean, what float32 rounds away of it, scale (C,) and share () to normalise by; the running
        statistics have moved."""
        count, mean, variance = self._statistics(x)
        mean, variance = self._move_running(norm, count, mean, variance)
        share = ((count > 1) & self._counts) / count.clamp(min=1)
        scale, rounded = torch.rsqrt(variance + norm.eps), mean.float()
        rest = (rounded - mean) * scale  # of a large mean float32 rounds away what counts
        return rounded, rest.float(), scale.float(), share.float()

    @torch.no_grad()
    def _move_running(
        self, norm: nn.BatchNorm1d, count: Tensor, mean: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Takes the statistics in; mean and variance (C,) float64 to normalise by."""
        assert norm.running_mean is not None and norm.running_var is not None
        enough = count > 1
        used = [
            torch.where(enough, now, running.double())
            for now, running in ((mean, norm.running_mean), (variance, norm.running_var))
        ]
        share = norm.momentum
        if share is None:  # the mean of all batches
            assert norm.num_batches_tracked is not None
            share = 1 / (norm.num_batches_tracked + 1)
        momentum = (share * enough).float()
        unbiased = variance * count / (count - 1).clamp(min=1)
        norm.running_mean.lerp_(mean.float(), momentum)
        norm.running_var.lerp_(unbiased.float(), momentum)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(enough)
        return used[0], used[1]

    @torch.no_grad()
    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count (), mean and variance (C,) over all processes; float64, in which the difference of
        squares keeps the digits that it loses in float32."""
        rows, width = (len(x) if self._counts else 0), x.shape[1]
        told = x.new_zeros(2 * width + 1, dtype=torch.float64)
        if rows:
            variance = torch.var(x.float(), dim=0, correction=0)
            mean = x.sum(dim=0, dtype=torch.float64) / rows
            told[:width] = mean * rows
            told[width:-1] = (variance.double() + mean.square()) * rows
            told[-1:].fill_(rows)
        torch.distributed.all_reduce(told)
        count = told[-1]
        mean, square = (told[:-1] / count.clamp(min=1)).split(width)
        return count, mean, (square - mean.square()).clamp(min=0)


class _Normalise(torch.autograd.Function):
    """((x − mean) · scale + rest) · weight + bias, the numbers made of the x of all processes.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015, whose sums over the batch run over all
    processes. `share` is 1 / count of voxels, 0 where x has not entered the statistics.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        token: Tensor,
        mean: Tensor,
        rest: Tensor,
        scale: Tensor,
        share: Tensor,
        norms: SharedNorms,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, mean, rest, scale, share)
        ctx.norms = norms
        normal = torch.addcmul(rest, x.float() - mean, scale)
        return torch.addcmul(bias.float(), normal, weight.float()).to(x.dtype), token.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, token: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, rest, scale, share = ctx.saved_tensors
        normal = torch.addcmul(rest, x.float() - mean, scale)
        grad = torch.zeros_like(normal) if grad is None else grad.float()
        of_bias, of_weight = grad.sum(dim=0), (grad * normal).sum(dim=0)
        of_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([of_bias, of_weight])
            if not ctx.norms.measures:
                torch.distributed.all_reduce(sums)
                ctx.norms.after_backward()
            of_x = grad - share * (sums[0] + normal * sums[1])
            of_x = (of_x * (scale * weight.float())).to(x.dtype)
        return of_x, of_weight.to(weight.dtype), of_bias.to(weight.dtype), token, *[None] * 5
