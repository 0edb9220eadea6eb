"""A model for use alone: what BatchNorm does with its running statistics goes into weights before it.

y = norm(conv(x)) is itself a convolution in evaluation: its weights times scale = γ/√(σ² + ε) for each
output channel, plus the bias β − scale·μ. Results are the same but for float32 rounding, on every
backend, and the passes over memory (on a GPU, the launches) of those norms are gone. A norm that comes
first, as those that open a pre-activation block do, stays: the residual path needs what it reads.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

import torch
from torch import Tensor, nn

from bifusion.models.backbone import Backbone
from bifusion.models.gate import Gate
from bifusion.models.towers.tower import ImageTower
from bifusion.models.unet import ConvNorm, NormReluConv, PreActivationBlock
from bifusion.sparse.backends import backend_for
from bifusion.sparse.modules import BatchNorm, InverseConv3d, StridedConv3d, SubmanifoldConv3d
from bifusion.sparse.tensor import SparseTensor

Convolution = SubmanifoldConv3d | StridedConv3d | InverseConv3d
Network = TypeVar("Network", bound=nn.Module)
PACKAGE = __name__.partition(".")[0]


def for_inference(model: Network, dtype: torch.dtype | None = None) -> Network:
    """`model` in evaluation mode, without gradients, its norms folded into its convolutions.

    dtype: that of the autocast it will run under. Weights which autocast converts at every use are then
    kept in it, where the backend follows autocast: the same numbers, and nothing left to convert. On a
    CPU whose products in `dtype` are faster, sparse convolutions take them, with sums and results in
    float32; on others they stay float32.
    It is changed itself, and can be trained no more: what a checkpoint holds of it is untouched, but
    its state dict no longer fits one. Folding again changes nothing.
    """
    model.eval().requires_grad_(False)
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is ConvNorm and _can_take(child.conv, child.norm, uses):
                setattr(parent, name, _folded(child.conv, child.norm))
            elif type(child) is PreActivationBlock and _has_own_parts(child, uses):
                setattr(parent, name, FoldedBlock(child))
    if dtype is not None:
        _narrow(model, dtype)
    return model


def _has_own_parts(block: PreActivationBlock, uses: Counter[int]) -> bool:
    """What `FoldedBlock` puts in its place does all that it does, and touches nothing besides."""
    layers = block.conv1, block.conv2
    plain = all(type(layer) is NormReluConv for layer in layers)
    return plain and _can_take(block.conv1.conv, block.conv2.norm, uses)


def _can_take(conv: nn.Module, norm: nn.Module, uses: Counter[int]) -> bool:
    """The norm can go into the weights of `conv`. Somebody else's network may use them in another place,
    which has another norm or none, compute them anew at each call (parametrizations, subclasses), or
    have put a norm of its own in."""
    known = type(conv) in (SubmanifoldConv3d, StridedConv3d, InverseConv3d) and type(norm) is BatchNorm
    return known and uses[id(conv.weight)] == 1


def _of_others(model: nn.Module) -> set[nn.Module]:
    """Modules of parts from outside the package."""
    parts = (module for module in model.modules() if isinstance(module, Backbone | Gate | ImageTower))
    return {
        module
        for part in parts
        if type(part).__module__.partition(".")[0] != PACKAGE
        for module in part.modules()
    }


def _narrow(model: nn.Module, dtype: torch.dtype) -> None:
    """Converts what autocast would: weights of products, and of dense ones their biases. Somebody else's
    part may switch autocast off, and multiply float32 by its dense layers: these stay as they are."""
    others = _of_others(model)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            if module in others:
                continue
            for values in module.parameters(recurse=False):
                values.data = values.data.to(dtype)
        elif isinstance(module, Convolution):
            backend = backend_for(module.weight.device)
            module.narrowed = backend.narrowed(module.weight, dtype)
            if backend.follows_autocast:
                module.weight.data = module.weight.data.to(dtype)


class FoldedBlock(nn.Module):
    """A `PreActivationBlock` whose second norm is in the weights of its first convolution."""

    def __init__(self, block: PreActivationBlock) -> None:
        super().__init__()
        self.norm, self.shortcut = block.conv1.norm, block.shortcut
        self.conv1 = _folded(block.conv1.conv, block.conv2.norm)
        self.conv2 = block.conv2.conv
        self.eval()

    def forward(self, x: SparseTensor) -> SparseTensor:
        hidden = self.conv1(x.replace(self.norm(x.feats, relu=True)), relu=True)
        return self.conv2(hidden, residual=self.shortcut(x).feats)


def _folded(conv: Convolution, norm: BatchNorm) -> Convolution:
    """`conv`, which now gives norm(conv(·)); computed in double, kept in the type of its weights.

    They stay where they are, and are doubled offset by offset: else a network leaves holes of its own
    size in memory.
    """
    scale, shift = _line(norm)
    bias = shift if conv.bias is None else shift + scale * conv.bias.double()
    for of_offset in conv.weight.data:
        of_offset.copy_(of_offset.double() * scale)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    return conv


def _line(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """(C,), (C,) float64: scale and shift of a norm with running statistics."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    return scale, norm.bias.double() - scale * norm.running_mean.double()
