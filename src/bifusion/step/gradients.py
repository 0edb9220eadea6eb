"""Mean gradients over the processes of a run, exchanged in buckets while the backward pass goes on.

All processes must start the same exchanges in the same order, those of norms (`sparse/shared_norm.py`)
among them, though a gradient may come later on one process than on another, or never (2D weights, where
no view sees a voxel). Hence buckets are fixed, by the order of the parameters alone, and go off in that
order at moments that all share: a norm's exchange, at which each bucket was complete everywhere when
that was last looked at, or the end of the backward pass. Without such norms a bucket goes off as soon
as it and all before it are complete, as nothing else is exchanged meanwhile.

After S. Li et al., "PyTorch Distributed", VLDB 2020, section 3.2, whose wrapper expects every process
to use the same parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

BUCKET_BYTES = 25 * 2**20
NEVER = 1 << 30
"""Later than any moment of a backward pass: at its end."""


@dataclass
class _Bucket:
    """Parameters whose gradients go round together."""

    parameters: list[nn.Parameter]
    due: int = NEVER
    """The shared moment, counted from 1, at which it goes off."""
    missing: int = 0
    """Gradients that have not come yet."""
    came: int = 0
    """Shared moments that had passed when its last gradient came."""
    late: bool = False
    """A gradient came after it had gone off."""
    sent: tuple[Tensor, Any] | None = None
    """What goes round, and the handle to wait for it."""

    def begin(self) -> None:
        self.missing, self.came, self.late, self.sent = len(self.parameters), 0, False, None

    def send(self) -> None:
        """Starts the exchange of what gradients there are; 0 for those that are not."""
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in self.parameters]
        )
        self.sent = flat, torch.distributed.all_reduce(flat, async_op=True)

    def take(self, processes: int) -> None:
        """Waits, and gives the parameters the mean gradients."""
        assert self.sent is not None
        flat, work = self.sent
        work.wait()
        flat /= processes
        sizes = [p.numel() for p in self.parameters]
        for p, gradient in zip(self.parameters, flat.split(sizes), strict=True):
            p.grad = gradient.view_as(p)
        self.sent = None


@dataclass
class GradientExchange:
    """Averages the gradients of `parameters` over `processes`: `begin` before a backward pass, `finish`
    after it. A parameter that has a gradient on some processes counts as zero on the others; one that
    has none anywhere keeps none, so that the optimiser passes it by."""

    parameters: list[nn.Parameter]
    processes: int
    shares_moments: bool
    """`moment` is called during backward passes, on all processes alike."""
    bucket_bytes: int = BUCKET_BYTES
    _buckets: list[_Bucket] = field(default_factory=list)
    _of: dict[int, _Bucket] = field(default_factory=dict)
    _trained: list[nn.Parameter] = field(default_factory=list)
    _hooked: set[int] = field(default_factory=set)
    _open: bool = False
    _moments: int = 0
    _next: int = 0
    """The first bucket that has not gone off."""

    def begin(self) -> None:
        """The backward pass that completes the gradients comes next, on all processes."""
        trained = [p for p in reversed(self.parameters) if p.requires_grad]
        if [id(p) for p in trained] != [id(p) for p in self._trained]:
            self._plan(trained)
        for bucket in self._buckets:
            bucket.begin()
        self._open, self._moments, self._next = True, 0, 0

    def moment(self) -> None:
        """A point of the backward pass to which all processes come in the same order."""
        if not self._open:
            return
        self._moments += 1
        while self._next < len(self._buckets) and self._buckets[self._next].due <= self._moments:
            self._send_next()

    def finish(self) -> None:
        """Mean gradients are there afterwards, the same on all processes."""
        self._open = False
        while self._next < len(self._buckets):
            self._send_next()
        if not self._buckets:
            return
        has_gradient = [float(p.grad is not None) for p in self._trained]
        late = [float(bucket.late) for bucket in self._buckets]
        told = torch.tensor([*has_gradient, *late], device=self._trained[0].device)
        torch.distributed.all_reduce(told)
        counts = told.tolist()
        if any(counts[len(has_gradient) :]):
            self._send_again(counts[len(has_gradient) :])
        for bucket in self._buckets:
            bucket.take(self.processes)
        for p, count in zip(self._trained, counts, strict=False):
            if count == 0:
                p.grad = None
        if self.shares_moments and all(bucket.due == NEVER for bucket in self._buckets):
            self._learn()

    def _plan(self, trained: list[nn.Parameter]) -> None:
        """Buckets of the trained parameters from the last to the first, about as backward comes to
        them. Nothing else decides them: sums of three and more numbers depend on it in their last
        bits, and a resumed run is to repeat them."""
        self._trained, self._buckets, self._of = trained, [], {}
        size = 0
        for p in trained:
            first = self._buckets[-1].parameters[0] if self._buckets else None
            fits = first is not None and first.dtype == p.dtype and size < self.bucket_bytes
            if not fits:
                self._buckets.append(_Bucket([]))
                size = 0
            self._buckets[-1].parameters.append(p)
            self._of[id(p)] = self._buckets[-1]
            size += p.numel() * p.element_size()
            if id(p) not in self._hooked:
                p.register_post_accumulate_grad_hook(self._arrived)
                self._hooked.add(id(p))

    def _arrived(self, parameter: nn.Parameter) -> None:
        """The gradient of `parameter` is complete here."""
        bucket = self._of.get(id(parameter))
        if not self._open or bucket is None:
            return
        bucket.missing -= 1
        bucket.came, bucket.late = self._moments, bucket.late or bucket.sent is not None
        if self.shares_moments:
            return
        while self._next < len(self._buckets) and self._buckets[self._next].missing == 0:
            self._send_next()

    def _send_next(self) -> None:
        self._buckets[self._next].send()
        self._next += 1

    def _send_again(self, late: Iterable[float]) -> None:
        """The buckets that went off too early on some process, with all their gradients; when buckets
        are complete is found out anew."""
        for bucket, count in zip(self._buckets, late, strict=True):
            assert bucket.sent is not None
            if count:
                bucket.sent[1].wait()
                bucket.send()
            bucket.due = NEVER

    def _learn(self) -> None:
        """From now on each bucket goes off at the moment after the one at which the slowest process had
        completed it, and all before it, in this pass."""
        came = torch.tensor([b.came for b in self._buckets], device=self._trained[0].device)
        torch.distributed.all_reduce(came, op=torch.distributed.ReduceOp.MAX)
        latest = 0
        for bucket, moment in zip(self._buckets, came.tolist(), strict=True):
            latest = max(latest, moment)
            bucket.due = latest + 1
