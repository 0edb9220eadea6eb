"""Breaks tiny runs, and takes the steps they kept for replay again in fresh processes.

    python tools/replay_test.py [--runs 50] [--seed 0] [--jobs 2]

Drawn for each run: model, threads, precision, step, and what is wrong in it (weights, moments, a scene's
features, or nothing but a threshold that a sound step exceeds, so that the numbers compared are
finite). Exit status 1 unless `bifusion replay` finds every step identical to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bifusion.config.run import Config
from bifusion.step.step import Stepper
from bifusion.training.train import train
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d

RECIPES = (
    "oneformer3d_small",
    "mask3d_small",
    "bifusion_small",
    "bifusion_small_without_views",
    "bifusion_small_naive",
)
DEFECTS = ("weight", "moment", "feature", "threshold")
STEPS = 6
"""Of a run of three epochs, two batches each."""


@dataclass(frozen=True)
class Case:
    """One run to be broken."""

    number: int
    recipe: str
    threads: int
    precision: str
    step: int
    defect: str

    @classmethod
    def drawn(cls, number: int, seed: int) -> Case:
        """Models and defects in turn, so that all meet; the rest by chance."""
        rng = random.Random(f"{seed} {number}")
        return cls(
            number,
            RECIPES[number % len(RECIPES)],
            threads=rng.choice((1, 2)),
            precision=rng.choice(("32-true", "32-true", "bf16-mixed")),
            step=rng.randrange(1, STEPS),  # there are moments only after the first
            defect=DEFECTS[number // len(RECIPES) % len(DEFECTS)],
        )

    def config(self, data: Path) -> Config:
        """Tiny, in the case's precision."""
        tiny = tiny_mask3d(data) if self.recipe == "mask3d_small" else tiny_config(self.recipe, data)
        tiny.seed = self.number
        tiny.trainer.precision = self.precision  # pyright: ignore[reportAttributeAccessIssue]
        tiny.trainer.guard.rules.actions = {"gradient_spike": "skip"}
        return tiny


def spoil(stepper: Stepper, batches: list[Any], case: Case) -> None:
    """Puts the defect into what the next step reads; it is then part of what is kept."""
    rng = random.Random(f"{case}")
    optimizer = stepper.optimizer.optimizer
    weights = [p for group in optimizer.param_groups for p in group["params"] if p in optimizer.state]
    if case.defect == "weight":
        _one_number(rng.choice(weights).data, rng)
    elif case.defect == "moment":
        _one_number(optimizer.state[rng.choice(weights)]["exp_avg"], rng)
    elif case.defect == "feature":
        _one_number(batches[0].voxel_feats, rng)
    else:
        stepper.guard.rules.config.gradient_cap = 1e-9


def _one_number(tensor: torch.Tensor, rng: random.Random) -> None:
    tensor.view(-1)[rng.randrange(tensor.numel())] = torch.nan


def break_run(case: Case, data: Path, run: Path) -> list[Path]:
    """Trains with the defect, in this process; the steps that were kept."""
    torch.set_num_threads(case.threads)
    compute = Stepper.compute

    def spoiled(self: Stepper, inputs: Any, state: Any, **others: Any) -> Any:
        if inputs.step == case.step and self not in done:
            done.append(self)
            spoil(self, inputs.batches, case)
        return compute(self, inputs, state, **others)

    done: list[Stepper] = []
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with patch.object(Stepper, "compute", spoiled), quiet[0], quiet[1]:
        train(case.config(data), run)
    return sorted((run / "bundles").glob("*.safetensors"))


def run_case(case: Case, data: Path, root: Path) -> str | None:
    """What was wrong with the case; None if its step came out identical in a fresh process."""
    kept = break_run(case, data, root / f"run{case.number}")
    if not kept or int(kept[0].stem.removeprefix("step-")) != case.step:
        return f"kept {[path.name for path in kept]} instead of step {case.step}"
    command = [sys.executable, "-m", "bifusion.cli", "replay", str(kept[0])]
    result = subprocess.run(command, capture_output=True, text=True)
    return None if result.returncode == 0 else result.stdout + result.stderr


def print_counts(cases: list[Case], failed: set[Case], console: Console) -> None:
    """A line for each value of what was drawn."""
    table = Table("", "runs", "identical")
    for name in ("recipe", "defect", "threads", "precision"):
        for value, runs in Counter(getattr(case, name) for case in cases).items():
            bad = sum(getattr(case, name) == value for case in failed)
            table.add_row(f"{name} {value}", str(runs), str(runs - bad))
        table.add_section()
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    wanted = parser.parse_args()
    cases = [Case.drawn(number, wanted.seed) for number in range(wanted.runs)]
    console, failed = Console(), set[Case]()
    with tempfile.TemporaryDirectory(prefix="replay-test-") as folder:
        root = Path(folder)
        data = make_tiny_data(root / "rooms", train=4, val=1)
        with ProcessPoolExecutor(wanted.jobs, mp_context=get_context("spawn")) as pool:
            running = {case: pool.submit(run_case, case, data, root) for case in cases}
            progress = Console(stderr=True)
            for case in track(cases, "runs", console=progress, transient=True):
                problem = running[case].result()
                if problem is not None:
                    failed.add(case)
                    console.print(f"{case}: {problem}", markup=False, highlight=False)
    print_counts(cases, failed, console)
    console.print(f"{len(cases) - len(failed)} of {len(cases)} steps identical to the bit")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
