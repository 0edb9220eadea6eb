"""The same layers and OneFormer3D's U-Net in spconv from PyPI, in a process and folder of its own.

Run as `python -m benchmarks.spconv_peer COORDS.npy MODE`, MODE "layers" or "unet", with the folder
into which pip installed spconv on PYTHONPATH; prints JSON. On a CPU spconv's forward runs as
installed; its backward asks for a CUDA stream, which fails without a driver: the look-up is replaced
at run time. With more than one thread its kernels race, so every result is checked, against a
gather-multiply-add in plain torch, before it is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.layers import CHANNELS, count_pairs
from benchmarks.timing import measure
from bifusion.sparse import reference
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.tensor import KernelMaps

PEERS = Path("build/peers")
ALLOWED_ERROR = 1e-4
"""Largest difference over the largest value that counts as the same result."""


def install() -> None:
    """spconv's CPU build and what it needs, into a folder of its own."""
    if not (PEERS / "spconv").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", str(PEERS), "spconv"], check=True)


def run(coords: Tensor, mode: str, threads: int) -> dict[str, Any]:
    """Starts the process and returns what it measured."""
    file = PEERS / "coords.npy"
    np.save(file, coords.numpy())
    paths = os.pathsep.join([str(PEERS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", __name__, str(file), mode]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def patch_stream_lookup() -> None:
    """spconv asks for the current CUDA stream in backward, also on a CPU, where any number will do."""
    import spconv.pytorch.cppcore as cppcore
    import spconv.pytorch.ops as ops

    cppcore.get_current_stream = ops.get_current_stream = lambda: 0


def from_spconv_weight(weight: Tensor) -> Tensor:
    """spconv's (C_out, k, k, k, C_in) in our layout (K, C_in, C_out); offsets are numbered alike."""
    return weight.flatten(1, 3).permute(1, 2, 0).contiguous()


def sparse_input(coords: Tensor, feats: Tensor) -> Any:
    import spconv.pytorch as spconv

    shifted = coords.clone()
    shifted[:, 1:] -= coords[:, 1:].amin(0)
    shape = (shifted[:, 1:].amax(0) + 2).tolist()
    return spconv.SparseConvTensor(feats, shifted, shape, 1)


def bench_layers(coords: Tensor) -> list[dict[str, Any]]:
    """Submanifold layers, as `layers.bench_layers` measures ours."""
    kernel_map = KernelMaps(coords).submanifold(1, 3)
    return [_bench_layer(coords, kernel_map, width) for width in CHANNELS]


def _bench_layer(coords: Tensor, kernel_map: KernelMap, width: int) -> dict[str, Any]:
    import spconv.pytorch as spconv

    conv = spconv.SubMConv3d(width, width, 3, bias=False, indice_key="map", algo=spconv.ConvAlgo.Native)
    feats = torch.randn(len(coords), width, requires_grad=True)
    upstream = torch.randn(len(coords), width)
    leaves = (feats, conv.weight)
    x = sparse_input(coords, feats)
    out = conv(x)  # builds the pair lists, which later calls share
    x.indice_dict = out.indice_dict

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out.features, leaves, upstream, retain_graph=True)

    expected = reference.conv(feats, from_spconv_weight(conv.weight), kernel_map)
    wanted = torch.autograd.grad(expected, leaves, upstream)
    errors = [_error(out.features, expected)]
    errors += [_error(a, b) for a, b in zip(backward(), wanted, strict=True)]
    with torch.no_grad():
        forward = measure(lambda: conv(x), repeats=3)
    return {
        "layer": "kernel 3",
        "channels": width,
        "errors": errors,
        "correct": max(errors) < ALLOWED_ERROR,
        "gflop": 2 * count_pairs(kernel_map) * width * width / 1e9,
        "forward": forward.as_dict(),
        "backward": measure(backward, repeats=3).as_dict(),
    }


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def bench_unet(coords: Tensor) -> dict[str, Any]:
    """Forward and backward in training mode with pair lists, as `unets.bench_unet` measures ours."""
    from benchmarks.spconv_unet import build_unet

    unet = build_unet().train()
    feats, upstream = torch.randn(len(coords), 6), torch.randn(len(coords), 32)

    def forward() -> Tensor:
        return unet(sparse_input(coords, feats)).features

    def forward_backward() -> None:
        unet.zero_grad()
        forward().backward(upstream)

    first, second = forward().detach(), forward().detach()
    return {
        "unet": "residual",
        "voxels": len(coords),
        "repeatable": bool(torch.equal(first, second)),
        "forward": measure(forward, repeats=2).as_dict(),
        "forward_backward": measure(forward_backward, repeats=2).as_dict(),
    }


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    patch_stream_lookup()
    voxels = torch.from_numpy(np.load(sys.argv[1]))
    result = bench_unet(voxels) if sys.argv[2] == "unet" else {"layers": bench_layers(voxels)}
    print(json.dumps({"threads": torch.get_num_threads(), **result}))
