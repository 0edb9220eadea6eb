"""What norms and gradients of several processes (gloo) come to, held against one process's.

Called by several_runs.py. Every process makes the same random numbers and takes its rows of them.
"""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.distributed
from torch import Tensor, nn

from bifusion.models.recompute import recompute
from bifusion.models.unet import UNetConfig, build_unet
from bifusion.sparse.modules import BatchNorm
from bifusion.sparse.shared_norm import SharedNorms
from bifusion.sparse.tensor import SparseTensor
from bifusion.step.gradients import NEVER, GradientExchange


def rows_of(counts: list[int], rank: int) -> slice:
    first = sum(counts[:rank])
    return slice(first, first + counts[rank])


def check_norm(
    counts: list[int],
    rank: int,
    offset: float = 0.0,
    counted: list[bool] | None = None,
    momentum: float | None = 0.1,
) -> None:
    """Output, gradients and running statistics of a norm, with as many rows a process as `counts`."""
    generator = torch.Generator().manual_seed(sum(counts))
    x = torch.randn(sum(counts), 5, generator=generator) * 0.5 + offset
    weighed = torch.randn(sum(counts), 5, generator=generator)
    own, counted = rows_of(counts, rank), counted or [True] * len(counts)
    whole, norm = (BatchNorm(5, eps=1e-4, momentum=momentum) for _ in range(2))
    whole.double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.bias.uniform_(-1, 1, generator=generator)
    whole.load_state_dict(norm.state_dict())
    entering = torch.cat([x[rows_of(counts, r)] for r, counts_too in enumerate(counted) if counts_too])
    wanted_x = entering.double().requires_grad_()
    wanted = whole(wanted_x)
    (
        wanted * torch.cat([weighed[rows_of(counts, r)] for r in range(len(counts)) if counted[r]])
    ).sum().backward()

    mine, norms = x[own].clone().requires_grad_(), SharedNorms()
    norm.shared = norms
    with norms.together(counts=counted[rank]):
        out = norm(mine)
    loss = (out * weighed[own]).sum() * counted[rank]
    norms.tied(loss).backward()
    if counted[rank]:
        first = sum(n for n, c in zip(counts[:rank], counted, strict=False) if c)
        theirs = slice(first, first + counts[rank])
        close(out, wanted[theirs])
        close(mine.grad, wanted_x.grad[theirs])
    for parameter, other in ((norm.weight, whole.weight), (norm.bias, whole.bias)):
        gradient = parameter.grad.clone()
        torch.distributed.all_reduce(gradient)
        close(gradient, other.grad)
    close(norm.running_mean, whole.running_mean)
    close(norm.running_var, whole.running_var)
    assert norm.num_batches_tracked == whole.num_batches_tracked


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.detach(), wanted.detach().float(), rtol=1e-5, atol=1e-5)


def check_loss_without_norms(rank: int) -> None:
    """The last process's loss depends on no norm, the first one's on the first of two alone: nobody
    waits, and the gradients are those of the losses that there are."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), BatchNorm(4), nn.Linear(4, 4), BatchNorm(4))
    other, norms = nn.Parameter(torch.ones(())), SharedNorms()
    layers[1].shared = layers[3].shared = norms
    with norms.together():
        middle = layers[1](layers[0](torch.randn(6, 3)))
        end = layers[3](layers[2](middle))
    last = torch.distributed.get_world_size() - 1
    loss = other * 2 if rank == last else (middle if rank == 0 else end).square().sum()
    norms.tied(loss).backward()
    assert layers[0].weight.grad is not None and layers[0].weight.grad.isfinite().all()
    assert (other.grad is not None) == (rank == last)


def check_measured_by_one(rank: int) -> None:
    """Gradients that the first process alone measures wait for nobody, and what follows is no other."""
    torch.manual_seed(rank)
    layer, norm, norms = nn.Linear(3, 4), BatchNorm(4), SharedNorms()
    norm.shared, found = norms, []
    x = torch.randn(6, 3)
    for measured in (False, rank == 0):
        with norms.together():
            loss = norm(layer(x)).square().sum()
        if measured:
            with norms.apart():
                torch.autograd.grad(loss, layer.weight, retain_graph=True)
        layer.zero_grad()
        norms.tied(loss).backward()
        found.append(layer.weight.grad.clone())
    assert torch.equal(*found)


def check_recomputed(rank: int) -> None:
    """Blocks that the backward pass computes again take part in no exchange a second time, and come to
    the same gradients and statistics to the bit."""
    generator = torch.Generator().manual_seed(rank)
    places = torch.randperm(512, generator=generator)[: 90 if rank else 200]
    coords = torch.stack([places * 0, places // 64, places // 8 % 8, places % 8], dim=1).int()
    feats, found = torch.randn(len(coords), 6, generator=generator), []
    for parts in ((), ("backbone",)):
        torch.manual_seed(1)
        net, norms = build_unet(UNetConfig(planes=(8, 12), blocks=(1, 1))), SharedNorms()
        for module in net.modules():
            if isinstance(module, BatchNorm):
                module.shared = norms
        blocks = net.recomputable()
        recompute(SimpleNamespace(recomputable=lambda blocks=blocks: {"backbone": blocks}), parts)
        with patch.object(torch.distributed, "all_reduce", wraps=torch.distributed.all_reduce) as told:
            with norms.together():
                out = net(SparseTensor(feats, coords))
            norms.tied(out.square().sum()).backward()
        state = [p.grad for p in net.parameters()] + list(net.buffers())
        found.append((told.call_count, out, *state))
    assert found[0][0] == found[1][0] > 0
    assert all(torch.equal(a, b) for a, b in zip(found[0][1:], found[1][1:], strict=True))


def check_exchange(rank: int, world: int, shares_moments: bool) -> None:
    """Mean gradients, whatever reaches a process, whenever: a parameter that one alone uses, one that
    nobody uses, one that is frozen, one whose gradient comes late on one process."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, 2)) for _ in range(6)]
    parameters[4].requires_grad_(False)
    exchange = GradientExchange(parameters, world, shares_moments, bucket_bytes=30)

    class Moment(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            exchange.moment()
            return grad

    due = []
    for step in range(4):
        swapped = step == 2 and rank == 0  # here the last layers come first, once
        order = [0, 1, 5] if swapped else [5, 1, 0]
        for p in parameters:
            p.grad = None
        x = torch.zeros(())
        for index in reversed(order):
            x = Moment.apply(x + (parameters[index] * (rank + index + step)).sum())
        if rank == 0:
            x = x + parameters[2].sum() * 3
        exchange.begin()
        x.backward()
        exchange.finish()
        mean = (world - 1) / 2
        for index in order:
            assert torch.allclose(parameters[index].grad, torch.tensor(mean + index + step)), (
                step,
                index,
            )
        assert torch.allclose(parameters[2].grad, torch.tensor(3 / world))
        assert parameters[3].grad is None and parameters[4].grad is None
        due.append([bucket.due for bucket in exchange._buckets])
    if shares_moments:
        assert all(moment < NEVER for moment in due[1]), "learnt by the first step"
    digests = [torch.zeros(6) for _ in range(world)]
    torch.distributed.all_gather(digests, parameters[0].grad.flatten().contiguous())
    assert all(digest.equal(digests[0]) for digest in digests)


def check() -> None:
    """All of it; raises AssertionError."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rest = [3] * (world - 2)
    for counts in ([5, 0, *rest], [0, 7, *rest], [1, 1, *rest], [40, 3, *rest]):
        check_norm(counts, rank)
    check_norm([1, 0, *[0] * (world - 2)], rank)  # one voxel in all: the running statistics serve
    check_norm([200, 100, *rest], rank, offset=30.0)
    check_norm([9, 4, *rest], rank, counted=[True, False, *[True] * (world - 2)])
    check_norm([4, 3, *rest], rank, momentum=None)
    check_loss_without_norms(rank)
    check_measured_by_one(rank)
    check_recomputed(rank)
    for shares_moments in (False, True):
        check_exchange(rank, world, shares_moments)
