"""`python -m benchmarks.pairs [--only norms]`: two ways of computing the same, turn by turn.

Each round runs both, the order changing from round to round, so that what else the machine does falls
on both; told is the median of the rounds' ratios. `BENCH_CLOCK=cpu` with one thread counts processor
time. "Plain" is torch's BatchNorm, ReLU and sums after convolutions, as in `sparse/reference.py`.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.__main__ import LAYER_VOXELS, OUT
from benchmarks.operations import gflop_of
from benchmarks.scenes import real_dataset, real_voxels, room_voxels
from benchmarks.timing import clock, limits, machine
from benchmarks.unets import KINDS, Kind
from bifusion.models.folding import for_inference
from bifusion.models.unet import UNetConfig, build_unet
from bifusion.sparse import native, reference
from bifusion.sparse.kernel_map import KernelMap
from bifusion.sparse.modules import BatchNorm
from bifusion.sparse.tensor import KernelMaps, SparseTensor

ROUNDS = 7
NORM_CHANNELS = (32, 96, 160)


@contextmanager
def plain_passes() -> Iterator[None]:
    """The engine's convolutions, everything after them in plain torch."""
    ours = native.batch_norm, native.conv_finished
    native.batch_norm, native.conv_finished = reference.batch_norm, _plain_conv_finished
    try:
        yield
    finally:
        native.batch_norm, native.conv_finished = ours


def _plain_conv_finished(
    feats: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    return reference.finished(native.conv(feats, weight, kernel_map), bias, residual, relu)


def compare(one: Callable[[], object], other: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median seconds of each, and of the ratios other / one."""
    one()
    other()
    seconds: list[list[float]] = []
    for number in range(rounds):
        order = (one, other) if number % 2 else (other, one)
        taken = {}
        for run in order:
            began = clock()
            run()
            taken[run] = clock() - began
        seconds.append([taken[one], taken[other]])
    first, second = (statistics.median(part) for part in zip(*seconds, strict=True))
    return {
        "now_s": first,
        "before_s": second,
        "ratio": statistics.median(before / now for now, before in seconds),
    }


def bench_norms(coords: Tensor, rounds: int) -> list[dict[str, Any]]:
    """A U-Net forward and backward, in training mode: the engine's norms against torch's."""
    steps = {kind: _step_of(kind, coords) for kind in KINDS}
    return [{"unet": kind, **compare(step, _plain(step), rounds)} for kind, step in steps.items()]


def bench_tiles(coords: Tensor, rounds: int) -> list[dict[str, Any]]:
    """The same in float32 on AMX's tiles, against AVX-512's vectors; nothing without AMX."""
    if "amx_bf16" not in native.available_isas():
        return []
    steps = {kind: _step_of(kind, coords) for kind in KINDS}
    return [
        {"unet": kind, **compare(_on("amx_bf16", step), _on("avx512", step), rounds)}
        for kind, step in steps.items()
    ]


def _step_of(kind: Kind, coords: Tensor) -> Callable[[], object]:
    """Forward and backward of a U-Net in training mode, kernel maps not counted."""
    torch.manual_seed(0)
    unet = build_unet(UNetConfig(kind=kind)).train()
    feats = torch.randn(len(coords), UNetConfig(kind=kind).in_channels)
    upstream = torch.randn(len(coords), unet.out_channels)
    x = SparseTensor(feats, coords, maps=KernelMaps(coords))

    def step() -> None:
        unet.zero_grad()
        unet(x).backward(upstream)

    return step


def bench_norm_layers(coords: Tensor, rounds: int) -> list[dict[str, Any]]:
    """BatchNorm with ReLU, and with a residual, forward and backward together."""
    records = []
    for channels in NORM_CHANNELS:
        norm = BatchNorm(channels)
        x, upstream, added = (torch.randn(len(coords), channels) for _ in range(3))
        for residual in (None, added):

            def step(norm: BatchNorm, x: Tensor, residual: Tensor | None, upstream: Tensor) -> None:
                norm(x.detach().requires_grad_(), residual=residual, relu=True).backward(upstream)

            now = partial(step, norm, x, residual, upstream)
            record = {"channels": channels, "residual": residual is not None}
            records.append({**record, **compare(now, _plain(now), rounds)})
    return records


def bench_inference(coords: Tensor, rounds: int) -> list[dict[str, Any]]:
    """A U-Net in use, kernel maps not counted: norms folded, against the network as it was trained."""
    records = []
    for kind in KINDS:
        torch.manual_seed(0)
        config = UNetConfig(kind=kind)
        unet = build_unet(config).eval()
        folded = for_inference(copy.deepcopy(unet))
        x = SparseTensor(torch.randn(len(coords), config.in_channels), coords)
        gflop = gflop_of(unet, partial(unet, x))
        with torch.inference_mode():
            record = compare(partial(folded, x), _plain(partial(unet, x)), rounds)
        bounds = limits()
        dense = bounds["dense_gflops"] or float("nan")
        least = gflop / dense
        records.append(
            {"unet": kind, "gflop": gflop, **bounds, **record, "of_dense_time": record["now_s"] / least}
        )
    return records


def bench_bfloat16(coords: Tensor, rounds: int) -> list[dict[str, Any]]:
    """A U-Net in use, kernel maps not counted: folded for bfloat16, against folded in float32. `apart`:
    norm of the difference of their outputs over the norm of the output."""
    records = []
    for kind in KINDS:
        torch.manual_seed(0)
        config = UNetConfig(kind=kind)
        wide = for_inference(build_unet(config))
        narrow = for_inference(copy.deepcopy(wide), torch.bfloat16)
        x = SparseTensor(torch.randn(len(coords), config.in_channels), coords)
        with torch.inference_mode():
            record = compare(partial(narrow, x), partial(wide, x), rounds)
            expected = wide(x)
            apart = (narrow(x) - expected).norm() / expected.norm()
        records.append({"unet": kind, **record, "apart": apart.item()})
    return records


def _plain(run: Callable[[], object]) -> Callable[[], object]:
    def plain() -> None:
        with plain_passes():
            run()

    return plain


def _on(isa: str, run: Callable[[], object]) -> Callable[[], object]:
    def on_isa() -> None:
        native.use_isa(isa)
        run()

    return on_isa


PARTS = {
    "norm-layers": bench_norm_layers,
    "norms": bench_norms,
    "inference": bench_inference,
    "bfloat16": bench_bfloat16,
    "tiles": bench_tiles,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--voxels", type=int, default=0, help="of a generated room instead of the real scan"
    )
    wanted = parser.parse_args()
    os.environ["BENCH_THREADS"] = str(wanted.threads)
    torch.set_num_threads(wanted.threads)
    native.keep_freed_memory()
    scan = None if wanted.voxels else real_dataset(OUT / "real")
    coords = room_voxels(wanted.voxels or LAYER_VOXELS) if scan is None else real_voxels(scan)
    found = {part: PARTS[part](coords, wanted.rounds) for part in wanted.only}
    print(json.dumps({"machine": machine(), "voxels": len(coords), **found}, indent=1))


if __name__ == "__main__":
    main()
