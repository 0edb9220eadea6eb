"""`python -m benchmarks.towers`: what a view costs, by image tower (on Linux: /proc tells the memory).

Weights are random (they change no time), towers frozen, one view at a time as in a run. Each tower is
measured in a process of its own. Writes benchmarks/results/towers.json and prints the table.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.segment_cell import resident_mb
from benchmarks.timing import machine, measure
from bifusion.device_memory import most_resident_mb
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.towers.pixels import PixelsConfig
from bifusion.models.towers.timm_cnn import TimmCnnConfig
from bifusion.models.towers.timm_vit import TimmVitConfig
from bifusion.models.towers.tower import TowerConfig
from bifusion.types import BatchView

OUT = Path("benchmarks/results/towers.json")
CLIP_TESTS, TIMM_TESTS = "test_clip_encoder.py", "test_timm_towers.py"


@dataclass(frozen=True)
class Row:
    """A tower, the long and short side of its views, and the tests that hold it to its library."""

    config: TowerConfig
    size: tuple[int, int]
    tests: str


ROWS = {
    "small CLIP tower (bifusion_small)": Row(
        ClipConfig("small", blocks=4), (320, 240), f"{CLIP_TESTS}, test_clip_pretraining.py"
    ),
    "half of CLIP ViT-B/16 (bifusion_scannet200)": Row(ClipConfig(), (640, 480), CLIP_TESTS),
    "DINOv2 ViT-B/14 (…_dinov2)": Row(TimmVitConfig(depth_channel=False), (644, 476), TIMM_TESTS),
    "DINOv2 ViT-S/14, registers": Row(
        TimmVitConfig("vit_small_patch14_reg4_dinov2.lvd142m"), (644, 476), TIMM_TESTS
    ),
    "DINOv3 ViT-B/16": Row(TimmVitConfig("vit_base_patch16_dinov3.lvd1689m"), (640, 480), TIMM_TESTS),
    "SigLIP 2 ViT-B/16": Row(
        TimmVitConfig("vit_base_patch16_siglip_256.v2_webli"), (640, 480), TIMM_TESTS
    ),
    "EfficientNet-Lite0 to stride 16 (bifusion_small_efficientnet)": Row(
        TimmCnnConfig(), (320, 240), f"{TIMM_TESTS}, test_lite0_package.py"
    ),
    "the pixels themselves (…_lifted_rgb)": Row(PixelsConfig(), (320, 240), "test_bifusion.py"),
}


def measured(row: Row) -> dict[str, Any]:
    """Parameters, seconds a view, and memory above the process after its imports, libraries included."""
    width, height = row.size
    for library in ("open_clip", "timm"):  # a tower imports its own as it is built: not a view's memory
        importlib.import_module(library)
    eye, depth = torch.eye(4), torch.full((1, height, width), 2.0)
    view = BatchView(
        0, "view", torch.rand(3, height, width), depth, eye[:3, :3], eye, depth[0], eye[:3, :3], eye
    )
    imported_mb = resident_mb()
    tower = row.config.build().requires_grad_(False)
    with torch.no_grad():
        timing = measure(lambda: tower.encode_views([view]), repeats=5)
        (features,) = tower.encode_views([view])
    return {
        "parameters": sum(p.numel() for p in tower.parameters()),
        "view": [width, height],
        "map": list(features.shape),
        "seconds": timing.as_dict(),
        "memory_mb": most_resident_mb() - imported_mb,
        "tests": row.tests,
        "machine": machine(),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row a tower."""
    lines = ["| tower | weights | view, map | time | memory | held by |", "| --- |" + " --- |" * 5]
    for name, found in results.items():
        (width, height), (rows, columns, channels) = found["view"], found["map"]
        cells = [
            name,
            f"{found['parameters'] / 1e6:.1f} M" if found["parameters"] else "none",
            f"{width} × {height}, {columns} × {rows} × {channels}",
            f"{1000 * found['seconds']['seconds']:.0f} ms",
            f"{found['memory_mb']:.0f} MB",
            found["tests"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.towers", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", choices=ROWS, help=argparse.SUPPRESS)  # the process of one tower
    wanted = parser.parse_args()
    if wanted.only:
        torch.set_num_threads(wanted.threads)
        print(json.dumps(measured(ROWS[wanted.only])))
        return
    results = {}
    for name in ROWS:
        command = [sys.executable, "-m", "benchmarks.towers", "--only", name]
        command += ["--threads", str(wanted.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
        results[name] = json.loads(done.stdout.splitlines()[-1])
    wanted.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
