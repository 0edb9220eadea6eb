"""Every candidate configuration of the GPU engine's two large kernels, on a few layers.

Run as `python -m benchmarks.gpu_candidates COORDS.npy`; prints a JSON line a layer and kernel. The
figures are for who writes the rule in sparse/triton/configurations.py: nothing reads them at run time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_layers import LAYERS, kernel_map_of
from benchmarks.gpu_timing import measure
from bifusion.sparse.tensor import KernelMaps
from bifusion.sparse.triton import launch
from bifusion.sparse.triton.configurations import (
    CONVOLVE,
    WEIGHT_GRADIENT,
    Configuration,
    Products,
    choose_convolve,
    choose_weight_gradient,
)

KINDS: dict[Products, tuple[torch.dtype, str]] = {
    "narrow": (torch.bfloat16, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "ieee": (torch.float32, "ieee"),
}
REPEATS = 12


def bench(coords: Tensor) -> Iterator[dict[str, Any]]:
    """Milliseconds by configuration, and the rule's choice."""
    maps = KernelMaps(coords)
    for kind in KINDS:
        for layer, level, channels_in, channels_out in LAYERS:
            about = {
                "kind": kind,
                "layer": layer,
                "level": level,
                "channels": [channels_in, channels_out],
            }
            calls = _calls(maps, layer, level, (channels_in, channels_out), kind)
            for kernel, (listed, chosen, call) in calls.items():
                found = {
                    named(candidate): measure(lambda: call(candidate), REPEATS).seconds * 1000  # noqa: B023
                    for candidate in listed
                    if candidate.block_n < 2 * max(16, channels_out)
                }
                yield {**about, "kernel": kernel, "chosen": named(chosen), "milliseconds": found}


def named(configuration: Configuration) -> str:
    """As in "64x32x32, 4 warps, 5 stages"."""
    blocks = "x".join(map(str, configuration.blocks().values()))
    return f"{blocks}, {configuration.warps} warps, {configuration.stages} stages"


Call = tuple[tuple[Configuration, ...], Configuration, Callable[[Configuration], Tensor]]


def _calls(
    maps: KernelMaps, layer: str, level: int, channels: tuple[int, int], kind: Products
) -> dict[str, Call]:
    kernel_map = kernel_map_of(maps, layer, level)
    dtype, precision = KINDS[kind]
    feats, weight, grad = (
        torch.randn(shape, device="cuda").to(dtype)
        for shape in (
            (kernel_map.num_inputs, channels[0]),
            (kernel_map.volume, *channels),
            (kernel_map.num_outputs, channels[1]),
        )
    )
    return {
        "convolve": (
            CONVOLVE[kind],
            choose_convolve(*channels, kind),
            lambda chosen: launch.convolve(feats, weight, kernel_map, precision, chosen),
        ),
        "weight_gradient": (
            WEIGHT_GRADIENT[kind],
            choose_weight_gradient(*channels, kind),
            lambda chosen: launch.weight_gradient(feats, grad, kernel_map, precision, chosen),
        ),
    }


if __name__ == "__main__":
    for record in bench(torch.from_numpy(np.load(sys.argv[1])).cuda()):
        print(json.dumps(record), flush=True)
