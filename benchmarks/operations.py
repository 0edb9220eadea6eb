"""What a network multiplies and adds: the least that it can take on a chip of a known speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.layers import count_pairs
from bifusion.sparse.modules import InverseConv3d, StridedConv3d, SubmanifoldConv3d
from bifusion.sparse.tensor import SparseTensor

SPARSE = (SubmanifoldConv3d, StridedConv3d, InverseConv3d)


def gflop_of(network: nn.Module, run: Callable[[], object]) -> float:
    """Billions of operations of `run()`, two a multiplication and addition: sparse convolutions of
    `network` by pairs of their kernel maps and channels, dense products, convolutions and attention as
    torch counts them. Norms, activations, gathering and sorting count nothing."""
    counter = FlopCounterMode(display=False, custom_mapping={_ATTENTION_OF_CPU: _attention})
    sparse, within, before = 0, 0, 0

    def enter(module: nn.Module, inputs: tuple[SparseTensor, ...]) -> None:
        nonlocal before
        before = counter.get_total_flops()

    def leave(module: nn.Module, inputs: tuple[SparseTensor, ...], output: SparseTensor) -> None:
        nonlocal sparse, within
        within += counter.get_total_flops() - before  # what a backend does by torch's products
        sparse += 2 * pairs_of(module, inputs[0]) * module.weight.shape[1] * module.weight.shape[2]

    convolutions = [module for module in network.modules() if isinstance(module, SPARSE)]
    hooks = [module.register_forward_pre_hook(enter) for module in convolutions]
    hooks += [module.register_forward_hook(leave) for module in convolutions]
    with torch.no_grad(), counter:
        run()
    for hook in hooks:
        hook.remove()
    return (counter.get_total_flops() - within + sparse) / 1e9


_ATTENTION_OF_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def pairs_of(module: Any, x: SparseTensor) -> int:
    """Pairs of voxels that a sparse convolution multiplies when it reads `x`."""
    if isinstance(module, SubmanifoldConv3d):
        if module.kernel_size == 1:
            return len(x.feats)
        return count_pairs(x.maps.submanifold(x.stride, module.kernel_size))
    fine = x.stride if isinstance(module, StridedConv3d) else x.stride // module.stride
    return count_pairs(x.maps.strided(fine, module.kernel_size, module.stride))
