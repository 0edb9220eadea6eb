"""The same training on a GPU and on the CPU, from one seed: how far the two part.

Run as `python -m benchmarks.gpu_runs RECIPE DATA OUT DEVICE`, once a device; `compare` reads both.
At the first step they agree but for rounding. Later steps amplify it, as those of two seeds do, so that
what is compared are statistics.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bifusion.inference.evaluate import evaluate_run
from bifusion.recipes import get_recipe
from bifusion.training.train import train

STEPS = 200
LAST = 50
"""Steps whose losses are averaged."""


def run(recipe: str, data: Path, out: Path, device: str) -> None:
    """`STEPS` steps of `recipe` on `data`, and the evaluation, on one device."""
    config = get_recipe(recipe)
    config.data.root = data
    scenes = len(list((data / "train").iterdir()))
    config.trainer.epochs = STEPS * config.trainer.batch_size // scenes
    config.trainer.eval_every = config.trainer.epochs
    config.trainer.accelerator = device  # pyright: ignore[reportAttributeAccessIssue]
    train(config, out / device)
    evaluate_run(out / device, device=device)


def compare(out: Path) -> dict[str, Any]:
    """Differences between the runs in `out` on "cpu" and on "cuda"."""
    cpu, cuda = (
        [json.loads(line) for line in (out / device / "steps.jsonl").read_text().splitlines()]
        for device in ("cpu", "cuda")
    )
    first = {
        term: abs(cuda[0]["losses"][term] - value) / max(abs(value), 1e-6)
        for term, value in cpu[0]["losses"].items()
    }
    totals = {"cpu": [step["total"] for step in cpu], "cuda": [step["total"] for step in cuda]}
    evaluated = {
        device: json.loads((out / device / "evaluation.json").read_text())["full"] for device in totals
    }
    return {
        "steps": len(cuda),
        "first_step_relative": first,
        "last_mean": {device: statistics.mean(values[-LAST:]) for device, values in totals.items()},
        "last_deviation": {
            device: statistics.stdev(values[-LAST:]) for device, values in totals.items()
        },
        "evaluation": {
            device: {name: figures[name] for name in ("miou", "ap25")}
            for device, figures in evaluated.items()
        },
        "totals": totals,
    }


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
