"""`python -m benchmarks.scaling`: measures what scaling depends on and writes docs/scaling.md of it.

    python -m benchmarks.scaling               # minutes; wants the machine for itself
    python -m benchmarks.scaling --steps 2     # the shortest form
    python -m benchmarks.scaling --page        # the page again, from what was measured

Measured figures go to benchmarks/results/scaling.json; no figure of the page is written by hand.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.scaling_model import (
    KEPT_VIEWS,
    SCANS,
    VALIDATION_SCANS,
    Cluster,
    limits,
    modelled,
    rates_of,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RESULT, GPU, EVALUATION = (RESULTS / f"{name}.json" for name in ("scaling", "gpu-h200", "evaluation"))
PAGE, TEMPLATE = ROOT / "docs" / "scaling.md", "scaling.md.jinja"
WORK = ROOT / "build" / "bench" / "scaling"
GPUS = (1, 2, 4, 8)
LARGE_GPUS, LARGE_SCANS = 64, 100_000
PRECISION = "bf16-mixed"
CHANGES = {
    "loading": "views decoded at the size that the encoder takes (`--long-side`), features of a frozen "
    "tower kept (`prepare features`), superpoint targets computed when a scan is prepared",
    "disk, bytes": "scenes packed into shards of some hundred MB that are read in sequence and shuffled "
    "within a window; a copy on each node's own disk",
    "disk, files": "the same shards: one file where there are a dozen a scene",
    "exchange": "buckets sent while backward goes on, gradients in 16 bits between nodes, several "
    "scenes a step (`trainer.accumulate`)",
    "evaluation": "a fixed subset of the validation scans while training, all of them at the end",
    "figures gathered": "pieces added up along a tree in the order of scenes, so that no process holds "
    "them all",
    "start": "the first process of each node looks at the data and tells the others; sums of folders "
    "instead of files",
    "data on disk": "fewer views of a scan, half-size pictures; shards, of which memory holds some",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--steps", type=int, default=8, help="of each training; 2 at least")
    parser.add_argument("--page", action="store_true", help="write the page from what was measured")
    wanted = parser.parse_args()
    if not wanted.page:
        from benchmarks.scaling_measure import measure
        from benchmarks.timing import machine

        before = machine()
        found = {"machine": before, "steps": wanted.steps, **measure(WORK, max(2, wanted.steps))}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULT.read_text())), encoding="utf-8")
    print(f"{RESULT}\n{PAGE}")


def page(measured: dict[str, Any]) -> str:
    """docs/scaling.md."""
    cluster = Cluster()
    counted = json.loads(EVALUATION.read_text())["seconds_per_scene"]
    recipes = {
        step["recipe"]: rates_of(measured, step["recipe"], step, counted)
        for step in json.loads(GPU.read_text())["steps"]
        if step["precision"] == PRECISION and step["recipe"] in measured["recipes"]
    }
    runs = {
        recipe: [modelled(rates, gpus, SCANS, VALIDATION_SCANS, cluster) for gpus in GPUS]
        for recipe, rates in recipes.items()
    }
    large = {
        recipe: limits(rates, measured, LARGE_GPUS, LARGE_SCANS, cluster)
        for recipe, rates in recipes.items()
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        measured=measured,
        recipes=recipes,
        runs=runs,
        large=large,
        cluster=asdict(cluster),
        changes=CHANGES,
        scans=SCANS,
        validated=VALIDATION_SCANS,
        kept_views=KEPT_VIEWS,
        large_gpus=LARGE_GPUS,
        large_scans=LARGE_SCANS,
        count_seconds=counted,
    )


if __name__ == "__main__":
    main()
