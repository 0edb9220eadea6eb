"""Both U-Nets forward and backward, their kernel maps, and how the cost grows with the voxels."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.layers import count_pairs
from benchmarks.scenes import room_voxels
from benchmarks.timing import dense_gflops, measure
from bifusion.models.unet import UNetConfig, build_unet
from bifusion.sparse import native
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.modules import InverseConv3d, StridedConv3d, SubmanifoldConv3d
from bifusion.sparse.tensor import KernelMaps, SparseTensor

Kind = Literal["residual", "res16"]
KINDS: tuple[Kind, ...] = ("residual", "res16")
ROOM_VOXELS = (20_000, 40_000, 80_000, 160_000, 320_000, 640_000)


def bench_unet(kind: Kind, coords: Tensor, repeats: int = 3) -> dict[str, Any]:
    """Forward and backward in training mode, kernel maps included, and the maps alone."""
    torch.manual_seed(0)
    config = UNetConfig(kind=kind)
    unet = build_unet(config).train()
    feats = torch.randn(len(coords), config.in_channels)
    upstream = torch.randn(len(coords), unet.out_channels)

    def forward() -> Tensor:
        return unet(SparseTensor(feats, coords))

    def forward_backward() -> None:
        unet.zero_grad()
        forward().backward(upstream)

    gflop = forward_gflop(unet, SparseTensor(feats, coords))
    dense = dense_gflops()
    alone, both = measure(forward, repeats), measure(forward_backward, repeats)
    maps = measure(lambda: build_maps(kind, coords), repeats)
    dense = (dense + dense_gflops()) / 2
    return {
        "unet": kind,
        "voxels": len(coords),
        "forward_gflop": gflop,
        "dense_gflops": dense,
        "forward": alone.as_dict(),
        "forward_backward": both.as_dict(),
        "share_of_dense": 3 * gflop / both.seconds / dense,
        "kernel_maps": {**maps.as_dict(), "share_of_step": maps.seconds / both.seconds},
    }


def forward_gflop(unet: nn.Module, x: SparseTensor) -> float:
    """Useful work of the convolutions: two operations a pair and pair of channels."""
    total = 0

    def count(module: nn.Module, inputs: tuple[SparseTensor], output: SparseTensor) -> None:
        nonlocal total
        total += 2 * _pairs(module, inputs[0]) * module.weight.shape[1] * module.weight.shape[2]

    kinds = (SubmanifoldConv3d, StridedConv3d, InverseConv3d)
    hooks = [m.register_forward_hook(count) for m in unet.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        unet(x)
    for hook in hooks:
        hook.remove()
    return total / 1e9


def _pairs(module: Any, x: SparseTensor) -> int:
    if isinstance(module, SubmanifoldConv3d):
        if module.kernel_size == 1:
            return len(x.feats)
        return count_pairs(x.maps.submanifold(x.stride, module.kernel_size))
    fine = x.stride if isinstance(module, StridedConv3d) else x.stride // module.stride
    return count_pairs(x.maps.strided(fine, module.kernel_size, module.stride))


def build_maps(kind: Kind, coords: Tensor) -> list[KernelMap]:
    """Every kernel map that a step of the network needs, with the engine's plans."""
    maps = KernelMaps(coords)
    config = UNetConfig(kind=kind)
    levels = len(config.planes) if kind == "residual" else len(config.planes) // 2 + 1
    found = [maps.submanifold(1, config.stem_kernel)] if kind == "res16" else []
    for level in range(levels):
        if level:
            down = maps.strided(2 ** (level - 1), 2, 2)
            found += [down, down.transposed]
        found.append(maps.submanifold(2**level, 3))
    for kernel_map in found:
        native.plan_of(kernel_map)
    return found


def bench_growth(kind: Kind) -> dict[str, Any]:
    """Forward and backward on rooms of growing size, and the exponent of time over voxels."""
    records = [bench_unet(kind, room_voxels(count), repeats=2) for count in ROOM_VOXELS]
    sizes = [math.log(record["voxels"]) for record in records]
    costs = [math.log(record["forward_backward"]["best"]) for record in records]
    mean_size, mean_cost = sum(sizes) / len(sizes), sum(costs) / len(costs)
    slope = sum((s - mean_size) * (c - mean_cost) for s, c in zip(sizes, costs, strict=True))
    slope /= sum((s - mean_size) ** 2 for s in sizes)
    return {"unet": kind, "exponent": slope, "rooms": records}
