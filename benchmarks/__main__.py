"""`make bench`, or `python -m benchmarks [--only PART …] [--peers] …`.

Prints a table and writes everything to build/bench/results.json. All ratios are of one run.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import spconv_peer
from benchmarks.fusion import bench_fusion
from benchmarks.layers import bench_layers
from benchmarks.overhead import bench_overhead
from benchmarks.scenes import real_dataset, real_voxels, room_voxels
from benchmarks.steps import bench_step
from benchmarks.tables import print_tables
from benchmarks.timing import limits, machine
from benchmarks.unets import KINDS, bench_growth, bench_unet
from bifusion.datasets.rooms import RoomsConfig, make_rooms
from bifusion.sparse.backends import backend_for

OUT = Path("build/bench")
TABLE_WIDTH = 120
PARTS = ("layers", "unets", "growth", "steps", "overhead", "demo", "fusion")
LAYER_VOXELS = 110_000
FULL_SIZE = (
    "oneformer3d_scannet20",
    "oneformer3d_scannet200",
    "mask3d_scannet20",
    "bifusion_scannet200",
)
SMALL = ("oneformer3d_small", "mask3d_small", "bifusion_small")
SMALL_SCENES_PER_STEP = 2
DEMO_ROOMS = RoomsConfig(train_rooms=4, val_rooms=1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--peers", action="store_true", help="install spconv and Open3D and measure them too"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUT / "results.json")
    wanted = parser.parse_args()
    os.environ["BENCH_THREADS"] = str(wanted.threads)
    torch.set_num_threads(wanted.threads)
    console = Console(width=TABLE_WIDTH)
    backend_for(torch.device("cpu")).keep_freed_memory()  # as a training does
    results: dict[str, Any] = {"machine": machine(), "limits": limits()}
    scan = real_dataset(OUT / "real")
    if scan is None:
        console.print("the real scan is missing (BIFUSION_REAL_DATA): measuring generated rooms only")
    if wanted.peers and set(wanted.only) & {"layers", "unets"}:
        spconv_peer.install()
    for part in wanted.only:
        results[part] = _RUNNERS[part](scan, wanted.peers)
        results["machine"][f"load_after_{part}"] = os.getloadavg()[0]
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text(json.dumps(results, indent=1))
    print_tables(results, console)
    console.print(f"written to {wanted.out}")


def _layers(scan: Path | None, peers: bool) -> dict[str, Any]:
    coords = room_voxels(LAYER_VOXELS)
    found: dict[str, Any] = {"voxels": len(coords), "ours": bench_layers(coords)}
    if peers:  # right on one thread only: that is the rival, the others show why
        found["spconv"] = [spconv_peer.run(coords, "layers", threads) for threads in (1, 2)]
    return found


def _unets(scan: Path | None, peers: bool) -> dict[str, Any]:
    coords = room_voxels(80_000) if scan is None else real_voxels(scan)
    found: dict[str, Any] = {"ours": [bench_unet(kind, coords) for kind in KINDS]}
    if peers:
        found["spconv"] = [spconv_peer.run(coords, "unet", threads) for threads in (1, 2)]
    return found


def _growth(scan: Path | None, peers: bool) -> list[dict[str, Any]]:
    return [bench_growth("residual")]


def _steps(scan: Path | None, peers: bool) -> list[dict[str, Any]]:
    return [] if scan is None else [bench_step(recipe, scan, scenes=1) for recipe in FULL_SIZE]


def _overhead(scan: Path | None, peers: bool) -> list[dict[str, Any]]:
    """Monitor and guard, at full size on the real scan and in the demo's small recipe."""
    full = [] if scan is None else [bench_overhead("bifusion_scannet200", scan, scenes=1)]
    return [*full, bench_overhead("bifusion_small", _rooms(), SMALL_SCENES_PER_STEP)]


def _rooms() -> Path:
    rooms = OUT / "rooms"
    make_rooms(rooms, DEMO_ROOMS, None)
    return rooms


def _demo(scan: Path | None, peers: bool) -> list[dict[str, Any]]:
    """Steps of the demo's recipes on its rooms, with the engine and without."""
    rooms = _rooms()
    return [
        {"backend": backend, **bench_step(recipe, rooms, SMALL_SCENES_PER_STEP, backend)}
        for recipe in SMALL
        for backend in ("native", "torch")
    ]


def _fusion(scan: Path | None, peers: bool) -> dict[str, Any]:
    return bench_fusion(peers, OUT / "fusion")


_RUNNERS = {
    "layers": _layers,
    "unets": _unets,
    "growth": _growth,
    "steps": _steps,
    "overhead": _overhead,
    "demo": _demo,
    "fusion": _fusion,
}

if __name__ == "__main__":
    main()
