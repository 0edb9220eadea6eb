"""How long does a scan take, and how much memory? `python -m benchmarks.segment [--budget-minutes M] …`

A table over the size of the scan (voxels of 2 cm) for each published network, and for full-size BiFusion
with 1, 4 and 16 views of 640 × 480. Scans are the real one (BIFUSION_REAL_DATA) repeated side by side,
or generated rooms. Every cell is a process of its own, so that its peak memory (VmHWM) is its own.

Weights are random: time does not depend on them, but for post-processing, where an untrained network
would leave nothing to do. There its masks are replaced by those of objects, so that as many instances as
the published settings keep go through it: the most it can be.

Cells that are done stay in the JSON: after Ctrl-C, or when the budget is spent, the same command goes
on. To measure a cell again, remove it from there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.segment_cell import SUPERPOINTS
from benchmarks.segment_scans import scan_of
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.build import build_model
from bifusion.recipes import get_recipe
from bifusion.runs.checkpoint import save_checkpoint
from bifusion.storage.files import write_text

OUT = Path("build/bench/segment")
RESULTS = Path(__file__).parent / "results" / "segment.json"
VOXELS = (20_000, 40_000, 80_000, 160_000, 320_000, 640_000)
NETWORKS: dict[str, tuple[int, ...]] = {
    SUPERPOINTS: (0,),
    "oneformer3d_scannet20": (0,),
    "oneformer3d_scannet200": (0,),
    "mask3d_scannet20": (0,),
    "bifusion_scannet200": (1, 4, 16),
}
"""Network → numbers of views."""
NAMES = {
    SUPERPOINTS: "normals and superpoints, where a scan has none",
    "oneformer3d_scannet20": "OneFormer3D, ScanNet",
    "oneformer3d_scannet200": "OneFormer3D, ScanNet200",
    "mask3d_scannet20": "Mask3D, ScanNet",
    "bifusion_scannet200": "BiFusion, 89 M parameters",
}


@dataclass(frozen=True)
class Cell:
    """One entry of the table."""

    network: str
    views: int
    voxels: int
    threads: int

    @property
    def key(self) -> str:
        """Its name in the JSON."""
        return f"{self.network}, {self.views} views, {self.voxels} voxels, {self.threads} threads"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.segment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--budget-minutes", type=float, help="begin no cell after so long")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--voxels", nargs="+", type=int, default=list(VOXELS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON of the cells")
    parser.add_argument("--work", type=Path, default=OUT, help="scans and runs that are made for it")
    wanted = parser.parse_args()
    cells = list(_cells(wanted))
    done = read(wanted.out)
    try:
        _measure(cells, done, wanted)
    except KeyboardInterrupt:
        left = sum(cell.key not in done for cell in cells)
        print(f"interrupted; {left} of {len(cells)} cells left, the same command goes on")
        sys.exit(130)
    finally:
        print(markdown(cells, done))


def read(path: Path) -> dict[str, Any]:
    """The cells that were measured, by name."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _cells(wanted: argparse.Namespace) -> Iterator[Cell]:
    """Small scans first: a table that is cut short has whole columns."""
    for voxels in wanted.voxels:
        for network in wanted.networks:
            for views in NETWORKS[network]:
                yield Cell(network, views, voxels, wanted.threads)


def _measure(cells: list[Cell], done: dict[str, Any], wanted: argparse.Namespace) -> None:
    began = time.monotonic()
    for number, cell in enumerate(cells, start=1):
        if cell.key in done:
            continue
        minutes = (time.monotonic() - began) / 60
        if wanted.budget_minutes is not None and minutes >= wanted.budget_minutes:
            left = sum(cell.key not in done for cell in cells)
            print(f"{minutes:.0f} minutes are spent; {left} of {len(cells)} cells left")
            return
        done[cell.key] = run_cell(cell, wanted.work)
        write_text(wanted.out, json.dumps(done, indent=1) + "\n")
        print(f"{number}/{len(cells)} {cell.key}: {text_of(done[cell.key])}", flush=True)


def run_cell(cell: Cell, work: Path) -> dict[str, Any]:
    """Its record, from a fresh process; {"failed": why} where that did not end well."""
    scan = scan_of(cell.voxels, work)
    run = SUPERPOINTS if cell.network == SUPERPOINTS else str(_untrained(cell.network, work))
    command = [sys.executable, "-m", "benchmarks.segment_cell", run, str(scan), str(cell.views)]
    environment = {**os.environ, "BENCH_THREADS": str(cell.threads)}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if ended.returncode == -9:
        return {"failed": "killed: out of memory"}
    if ended.returncode:
        return {"failed": f"exit status {ended.returncode}"}
    return {"scan": scan.name, **json.loads(ended.stdout.splitlines()[-1])}


def _untrained(recipe: str, work: Path) -> Path:
    """A run folder of the recipe's network with its initial weights, whose image tower is read from
    nowhere."""
    run = work / "runs" / recipe
    if (run / "checkpoints" / "last").exists():
        return run
    config = get_recipe(recipe)
    if isinstance(config.model, BiFusionConfig) and config.model.tower is not None:
        config.model = config.model.with_tower(config.model.tower.with_weights(None))
    model = build_model(config.model, config.seed, config.labels)
    save_checkpoint(run / "checkpoints", model, config, None, step=0, links=["last"])
    return run


def markdown(cells: list[Cell], done: dict[str, Any]) -> str:
    """The table: a row a network, a column a size; seconds, and memory above the imported process."""
    sizes = sorted({cell.voxels for cell in cells})
    rows = dict.fromkeys((cell.network, cell.views, cell.threads) for cell in cells)
    lines = [f"| | {' | '.join(f'{size:,}' for size in sizes)} |", f"| --- |{' --- |' * len(sizes)}"]
    for network, views, threads in rows:
        texts = [text_of(done.get(Cell(network, views, size, threads).key)) for size in sizes]
        name = NAMES[network] + (f", {views} view{'s' * (views > 1)}" if views else "")
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def text_of(record: dict[str, Any] | None) -> str:
    """A cell's time and memory."""
    if record is None:
        return "not measured"
    if "failed" in record:
        return record["failed"]
    above_mb = record["peak_mb"] - record["imported_mb"]
    memory = f"{above_mb / 1024:.1f} GB" if above_mb >= 1000 else f"{above_mb:.0f} MB"
    return f"{record['seconds']:.1f} s, {memory}"


if __name__ == "__main__":
    main()
