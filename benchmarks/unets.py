"""Both U-Nets forward and backward, their kernel maps, and how the cost grows with the voxels."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.operations import gflop_of
from benchmarks.scenes import room_voxels
from benchmarks.timing import dense_gflops, measure
from bifusion.models.unet import UNetConfig, build_unet
from bifusion.sparse import native
from bifusion.sparse.kernel_map import KernelMap
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

    gflop = gflop_of(unet, forward)
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
