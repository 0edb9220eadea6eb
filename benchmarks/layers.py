"""Single layers: forward and the two gradients as shares of the dense product's speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import dense_gflops, measure
from bifusion.sparse.functional import sparse_conv
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.tensor import KernelMaps

CHANNELS = (32, 64, 96, 128, 192, 256)


def layer_maps(coords: Tensor) -> dict[str, KernelMap]:
    """The kinds of layers that are measured."""
    maps = KernelMaps(coords)
    return {"kernel 3": maps.submanifold(1, 3), "strided 2": maps.strided(1, 2, 2)}


def count_pairs(kernel_map: KernelMap) -> int:
    return int((kernel_map.neighbors >= 0).sum())


def bench_layers(coords: Tensor, channels: tuple[int, ...] = CHANNELS) -> list[dict[str, Any]]:
    """One record a kind of layer and number of channels (in and out alike)."""
    records = []
    for kind, kernel_map in layer_maps(coords).items():
        for width in channels:
            records.append({"layer": kind, "channels": width, **_bench_layer(kernel_map, width)})
    return records


def _bench_layer(kernel_map: KernelMap, width: int) -> dict[str, Any]:
    feats = torch.randn(kernel_map.num_inputs, width)
    weight = torch.randn(kernel_map.volume, width, width)
    upstream = torch.randn(kernel_map.num_outputs, width)
    gflop = 2 * count_pairs(kernel_map) * width * width / 1e9

    def gradient(x: Tensor, w: Tensor) -> Callable[[], object]:
        """Of the one that requires it; the other is not computed."""
        out, leaf = sparse_conv(x, w, kernel_map), x if x.requires_grad else w
        return lambda: torch.autograd.grad(out, leaf, upstream, retain_graph=True)

    dense = dense_gflops()
    timings = {
        "forward": measure(lambda: sparse_conv(feats, weight, kernel_map)),
        "grad_feats": measure(gradient(feats.clone().requires_grad_(), weight)),
        "grad_weight": measure(gradient(feats, weight.clone().requires_grad_())),
    }
    dense = (dense + dense_gflops()) / 2
    return {
        "gflop": gflop,
        "dense_gflops": dense,
        **{
            name: {**timing.as_dict(), "share_of_dense": gflop / timing.seconds / dense}
            for name, timing in timings.items()
        },
    }
