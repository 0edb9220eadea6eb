"""`python -m benchmarks.convolutions RUN SCAN [VIEWS]`: how fast each kind of sparse convolution of a
network in use is, as a share of the dense product's rate, on a scan.

RUN and SCAN are those that `python -m benchmarks.segment` leaves in build/bench/segment. The first
convolution on a kernel map pays for making it.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.operations import SPARSE, pairs_of
from benchmarks.timing import clock, dense_gflops
from bifusion.inference.device import keep_freed_memory
from bifusion.inference.segmenter import Segmenter
from bifusion.sparse.tensor import SparseTensor

Kind = tuple[str, int, int, int, int]
"""Name, stride of what it reads, channels in and out, offsets of the kernel."""


class Shares:
    """Seconds and operations by kind of convolution."""

    def __init__(self, network: torch.nn.Module):
        self.seconds: dict[Kind, float] = defaultdict(float)
        self.gflop: dict[Kind, float] = defaultdict(float)
        self.voxels: dict[Kind, int] = {}
        self._began = 0.0
        for module in network.modules():
            if isinstance(module, SPARSE):
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave)

    def _enter(self, module: Any, inputs: tuple[SparseTensor, ...]) -> None:
        self._began = clock()

    def _leave(self, module: Any, inputs: tuple[SparseTensor, ...], output: SparseTensor) -> None:
        seconds = clock() - self._began
        offsets, wide, out = module.weight.shape
        kind = (type(module).__name__, inputs[0].stride, wide, out, offsets)
        self.seconds[kind] += seconds
        self.gflop[kind] += 2 * pairs_of(module, inputs[0]) * wide * out / 1e9
        self.voxels[kind] = len(inputs[0].feats)


def main() -> None:
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "2")))
    keep_freed_memory()
    segmenter = Segmenter(Path(sys.argv[1]))
    segmenter.config.data.max_views = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    segmenter.predict(Path(sys.argv[2]))  # not counted
    shares = Shares(segmenter.model)
    began = clock()
    segmenter.predict(Path(sys.argv[2]))
    seconds, dense = clock() - began, dense_gflops()
    table = Table("convolution", "stride", "channels", "offsets", "voxels", "ms", "GFLOP", "of dense")
    for kind, taken in sorted(shares.seconds.items(), key=lambda item: -item[1]):
        name, stride, wide, out, offsets = kind
        gflop, voxels = shares.gflop[kind], f"{shares.voxels[kind]:,}"
        row = name, str(stride), f"{wide} → {out}", str(offsets), voxels, f"{1000 * taken:.1f}"
        table.add_row(*row, f"{gflop:.1f}", f"{gflop / taken / dense:.0%}")
    console = Console(width=120)
    console.print(table)
    all_s, all_gflop = sum(shares.seconds.values()), sum(shares.gflop.values())
    console.print(
        f"{all_s:.2f} of {seconds:.2f} s, {all_gflop:.0f} GFLOP; dense product {dense:.0f} GFLOP/s"
    )


if __name__ == "__main__":
    main()
