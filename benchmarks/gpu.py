"""`make gpu`, or `python -m benchmarks.gpu [--only PART …] [--name CHIP] [--peers NAME …]`.

Everything that only a GPU can show: the tests marked gpu, layers beside other libraries' and the limit
of the memory, the engine's candidate configurations, a full-size step of every recipe, inference of the
real scan, a training beside the CPU's. Every part runs in processes of its own, whose failure or time
limit costs that part alone; after each the results are written to benchmarks/results/gpu-NAME.json.
Without a GPU: the proofs that need none.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.gpu_tables import print_gpu_tables
from benchmarks.scenes import real_dataset, real_voxels, room_voxels
from bifusion.datasets.rooms import RoomsConfig, make_rooms
from bifusion.sparse.backends import BACKEND_VARIABLE

OUT = Path("build/gpu")
RESULTS = Path("benchmarks/results")
PARTS = ("tests", "limit", "layers", "candidates", "steps", "runs")
RECIPES = (
    "oneformer3d_scannet20",
    "oneformer3d_scannet200",
    "mask3d_scannet20",
    "bifusion_scannet200",
)
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
COMPARED = "oneformer3d_small"
ROOMS = RoomsConfig(train_rooms=4, val_rooms=2)
OURS = ("triton", "torch")
PROOFS = "tests/unit/test_sparse_triton*.py"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--name", help="of the results' file; default: the chip's")
    parser.add_argument("--peers", nargs="*", default=(), help="spconv-triton ocnn, where installed")
    parser.add_argument("--backends", nargs="+", default=OURS)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    parser.add_argument("--limit", type=float, default=600, help="seconds a process may take")
    wanted = parser.parse_args()
    console = Console(width=120)
    if not torch.cuda.is_available():
        return _proofs(console)
    return _measure(wanted, console)


def _proofs(console: Console) -> int:
    """What can be shown without a GPU."""
    files = sorted(map(str, Path().glob(PROOFS)))
    status = subprocess.run([sys.executable, "-m", "pytest", "-q", *files]).returncode if files else 1
    console.print("no CUDA device: nothing measured; the proofs " + ("hold" if status == 0 else "FAIL"))
    return status


def _measure(wanted: argparse.Namespace, console: Console) -> int:
    from benchmarks.gpu_timing import chip

    record: dict[str, Any] = {**chip(), "command": " ".join(sys.argv)}
    name = wanted.name or re.sub(r"[^a-z0-9]+", "-", record["chip"].lower()).strip("-")
    target = RESULTS / f"gpu-{name}.json"
    OUT.mkdir(parents=True, exist_ok=True)
    for part in wanted.only:
        record[part] = _RUNNERS[part](wanted)
        target.write_text(json.dumps(record, indent=1))
    print_gpu_tables(record, console)
    console.print(f"written to {target}")
    return 0 if record.get("tests", {"status": 0})["status"] == 0 else 1


def _start(limit: float, *arguments: str, backend: str = "") -> dict[str, Any]:
    """Runs a python process; what it printed, and how it ended: "timeout", or the exit status."""
    environment = {**os.environ, BACKEND_VARIABLE: backend}
    command = [sys.executable, *arguments]
    with open(OUT / "log.txt", "a") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            printed, status = process.communicate(timeout=limit)[0], process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            printed, status = process.communicate()[0], "timeout"
    return {"status": status, "printed": printed}


def _json_lines(done: dict[str, Any]) -> list[Any]:
    return [json.loads(line) for line in done["printed"].splitlines() if line.startswith("{")]


def _tests(wanted: argparse.Namespace) -> dict[str, Any]:
    done = _start(wanted.limit, "-m", "pytest", "-q", "-m", "gpu", "tests")
    return {"status": done["status"], "summary": done["printed"].splitlines()[-1:]}


def _limit(wanted: argparse.Namespace) -> dict[str, float]:
    from benchmarks.gpu_timing import copy_bytes_per_second

    return {"copy_bytes_per_second": copy_bytes_per_second()}


def _layers(wanted: argparse.Namespace) -> list[dict[str, Any]]:
    file, found = _coordinates(), []
    for engine in (*wanted.backends, *wanted.peers):
        done = _start(wanted.limit, "-m", "benchmarks.gpu_layers", str(file), engine)
        found.append({"engine": engine, "status": done["status"], "layers": _json_lines(done)})
    return found


def _candidates(wanted: argparse.Namespace) -> list[dict[str, Any]]:
    return _json_lines(_start(wanted.limit, "-m", "benchmarks.gpu_candidates", str(_coordinates())))


def _coordinates() -> Path:
    scan = real_dataset(OUT / "real")
    coords = room_voxels(80_000) if scan is None else real_voxels(scan)
    file = OUT / "coords.npy"
    np.save(file, coords.numpy())
    return file


def _steps(wanted: argparse.Namespace) -> list[dict[str, Any]]:
    scan = real_dataset(OUT / "real")
    if scan is None:
        return []
    found = []
    for recipe in wanted.recipes:
        for backend in wanted.backends:
            for precision in wanted.precisions:
                arguments = ("-m", "benchmarks.gpu_steps", recipe, str(scan), precision)
                done = _start(wanted.limit, *arguments, backend=backend)
                figures = _json_lines(done) or [{"recipe": recipe, "precision": precision}]
                found.append({"backend": backend, "status": done["status"], **figures[-1]})
    return found


def _runs(wanted: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.gpu_runs import compare

    rooms, out = OUT / "rooms", OUT / "runs"
    shutil.rmtree(out, ignore_errors=True)  # a run refuses a folder that holds one
    make_rooms(rooms, ROOMS, None)
    for device in ("cpu", "cuda"):
        done = _start(wanted.limit, "-m", "benchmarks.gpu_runs", COMPARED, str(rooms), str(out), device)
        if done["status"] != 0:
            return {"recipe": COMPARED, "device": device, "status": done["status"]}
    return {"recipe": COMPARED, "status": 0, **compare(out)}


_RUNNERS = {
    "tests": _tests,
    "limit": _limit,
    "layers": _layers,
    "candidates": _candidates,
    "steps": _steps,
    "runs": _runs,
}

if __name__ == "__main__":
    sys.exit(main())
