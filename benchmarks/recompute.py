"""`python -m benchmarks.recompute [RECIPE …]`: what recomputed activations save in a step, and cost.

Of one step a recipe, on the real scan: MiB that each part keeps for the backward
pass, and seconds from batch to gradients, with nothing and with all parts recomputed, turn by turn.
`BENCH_CLOCK=cpu` with one thread counts processor time.
"""

from __future__ import annotations

import json
import statistics
import sys
from functools import partial
from typing import Any, get_args

from benchmarks.__main__ import OUT
from benchmarks.scenes import real_dataset
from benchmarks.steps import configured, make_batch, middle_of_last_stage
from benchmarks.timing import clock, machine
from bifusion.config.run import RecomputedPart
from bifusion.data.dataset import SceneDataset
from bifusion.models.build import build_model
from bifusion.models.recompute import recompute
from bifusion.training.memory import MIB, kept_by_part

RECIPES = ("oneformer3d_scannet200", "mask3d_scannet20", "bifusion_scannet200")
CHOICES: dict[str, tuple[str, ...]] = {"kept": (), "recomputed": get_args(RecomputedPart)}
ROUNDS = 3


def measured(recipe: str) -> dict[str, Any]:
    """MiB by part and seconds of both choices."""
    data = real_dataset(OUT)
    if data is None:
        sys.exit("the real scan is missing: set BIFUSION_REAL_DATA to the folder it lies in")
    config = configured(recipe, data)
    model = build_model(config.model, config.seed, config.labels)
    stepper, prepare = middle_of_last_stage(config, model)
    inputs, state = prepare(0, make_batch(SceneDataset(config.data, "train", 0, training=True), 1, 0))
    mebibytes, seconds = {}, {name: [] for name in CHOICES}
    for name, parts in CHOICES.items():
        recompute(model, parts)
        kept = kept_by_part(stepper, inputs, state)
        mebibytes[name] = {label: round(size / MIB, 1) for label, size in kept.items()}
    for _ in range(ROUNDS):
        for name, parts in CHOICES.items():
            recompute(model, parts)
            started = clock()
            stepper.compute(inputs, state)
            seconds[name].append(clock() - started)
            stepper.discard()
    return {
        "recipe": recipe,
        "voxels": len(inputs.batches[0].voxel_coords),
        "views": len(inputs.batches[0].views),
        "mebibytes": mebibytes,
        "seconds": {name: round(statistics.median(times), 2) for name, times in seconds.items()},
    }


def main() -> None:
    print_line = partial(print, flush=True)
    print_line(json.dumps(machine()))
    for recipe in sys.argv[1:] or RECIPES:
        print_line(json.dumps(measured(recipe)))


if __name__ == "__main__":
    main()
