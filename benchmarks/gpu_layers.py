"""Single sparse layers on a GPU, ours and others', each checked against float64 before it is timed.

Run as `python -m benchmarks.gpu_layers COORDS.npy ENGINE …`; prints JSON lines, one a layer, as it goes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_peers import PEERS
from benchmarks.gpu_timing import measure
from bifusion.sparse import reference
from bifusion.sparse.backends import BACKEND_VARIABLE, backend_for
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.tensor import KernelMaps

DTYPES = {
    "float32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
}
ALLOWED = {"float32": 2e-5, "tf32": 2e-3, "float16": 3e-3, "bfloat16": 2e-2}
"""‖found - float64‖ / ‖float64‖ that counts as the same result."""
LAYERS = (
    ("submanifold 3", 0, 32, 32),
    ("submanifold 3", 0, 96, 96),
    ("submanifold 3", 1, 64, 64),
    ("submanifold 3", 2, 128, 128),
    ("submanifold 3", 3, 256, 256),
    ("strided 2", 0, 32, 64),
    ("inverse 2", 0, 64, 32),
)
"""Kind, level, channels in, channels out: what the published U-Nets have."""


class Ours:
    """The backend that BIFUSION_SPARSE_BACKEND names."""

    def __init__(self, name: str, kernel_map: KernelMap, tf32: bool):
        os.environ[BACKEND_VARIABLE] = name
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        self.backend, self.map = backend_for(torch.device("cuda")), kernel_map

    def weight(self, weight: Tensor) -> Tensor:
        return weight

    def forward(self, feats: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            return self.backend.conv(feats, weight, self.map)

    def backward(self, feats: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
        """A graph that was recorded before is walked: forward is not timed again."""
        if not hasattr(self, "_recorded"):
            leaves = feats.detach().requires_grad_(), weight.detach().requires_grad_()
            self._recorded = self.backend.conv(*leaves, self.map), leaves
        out, leaves = self._recorded
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)


def kernel_map_of(maps: KernelMaps, kind: str, level: int) -> KernelMap:
    """The map of a layer on `level`, to which strided layers lead."""
    for upper in range(level):
        maps.strided(2**upper, 2, 2)
    if kind.startswith("submanifold"):
        return maps.submanifold(2**level, int(kind.split()[1]))
    down = maps.strided(2**level, 2, 2)
    return down if kind.startswith("strided") else down.transposed


def bench(coords: Tensor, engines: list[str]) -> Iterator[dict[str, Any]]:
    """A record a layer, precision and engine."""
    maps = KernelMaps(coords)
    for kind, level, channels_in, channels_out in LAYERS:
        kernel_map = kernel_map_of(maps, kind, level)
        for dtype in DTYPES:
            layer = {"layer": kind, "level": level, "channels": [channels_in, channels_out]}
            for engine in engines:
                yield {
                    **layer,
                    "dtype": dtype,
                    "engine": engine,
                    **_bench(engine, kernel_map, layer, dtype),
                }


def _bench(engine: str, kernel_map: KernelMap, layer: dict[str, Any], name: str) -> dict[str, Any]:
    dtype, tf32 = DTYPES[name]
    channels_in, channels_out = layer["channels"]
    generator = torch.Generator("cuda").manual_seed(0)
    feats, weight, grad = (
        torch.randn(shape, generator=generator, device="cuda").to(dtype)
        for shape in (
            (kernel_map.num_inputs, channels_in),
            (kernel_map.volume, channels_in, channels_out),
            (kernel_map.num_outputs, channels_out),
        )
    )
    pairs = int((kernel_map.neighbors >= 0).sum())
    size = {"rows": kernel_map.num_outputs, "pairs": pairs, **_bytes(kernel_map, pairs, feats, weight)}
    try:
        peer = PEERS[engine](kernel_map, tf32) if engine in PEERS else Ours(engine, kernel_map, tf32)
    except NotImplementedError as reason:
        return {**size, "left_out": str(reason)}
    theirs = peer.weight(weight)
    errors = _errors(
        peer.forward(feats, theirs), peer.backward(feats, theirs, grad), feats, weight, grad, kernel_map
    )
    return {
        **size,
        "errors": errors,
        "correct": max(errors) < ALLOWED[name],
        "forward": measure(lambda: peer.forward(feats, theirs)).as_dict(),
        "backward": measure(lambda: peer.backward(feats, theirs, grad)).as_dict(),
    }


def _errors(
    out: Tensor,
    gradients: tuple[Tensor, ...],
    feats: Tensor,
    weight: Tensor,
    grad: Tensor,
    kernel_map: KernelMap,
) -> list[float]:
    """Relative errors of the output and both gradients."""
    leaves = feats.double().requires_grad_(), weight.double().requires_grad_()
    expected = reference.conv(*leaves, kernel_map)
    wanted = torch.autograd.grad(expected, leaves, grad.double())
    expected = expected.detach()
    pairs = zip((out, *gradients), (expected, *wanted), strict=True)
    return [float((found.double() - true).norm() / true.norm()) for found, true in pairs]


def _bytes(kernel_map: KernelMap, pairs: int, feats: Tensor, weight: Tensor) -> dict[str, int]:
    """What a forward pass must move: each input row once, or once a pair as without a cache."""
    item = feats.element_size()
    written = kernel_map.num_outputs * weight.shape[2] * item
    fixed = written + weight.numel() * item + pairs * 4
    channels = feats.shape[1] * item
    return {
        "least_bytes": fixed + kernel_map.num_inputs * channels,
        "gathered_bytes": fixed + pairs * channels,
    }


if __name__ == "__main__":
    voxels = torch.from_numpy(np.load(sys.argv[1])).cuda()
    for record in bench(voxels, sys.argv[2:]):
        print(json.dumps(record), flush=True)
