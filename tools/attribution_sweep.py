"""Breaks every module of the three models in turn and asks which one the trace names.

    python tools/attribution_sweep.py

Each module without parts that a training step calls, NaN and infinity, in its output and in the
gradient that it hands on; tiny models of the recipes' own structure. Exit status 1 below 98 %.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rich.console import Console
from rich.progress import track
from rich.table import Table

from module_faults import DIRECTIONS, VALUES, named_origin, trained_leaves
from step_factory import TinyStep, tiny_step
from tiny_runs import make_tiny_data, tiny_config, tiny_mask3d

WANTED = 0.98


def sweep(name: str, step: TinyStep, table: Table) -> tuple[int, list[str]]:
    """Adds the model's lines to the table; how many were tried, and what was named wrongly."""
    modules, tried, wrong = trained_leaves(step), 0, []
    for direction in DIRECTIONS:
        for kind, value in VALUES.items():
            told = []
            what = f"{name}: {kind} {direction}"
            for module in track(modules, what, console=Console(stderr=True), transient=True):
                found = named_origin(step, module, direction, value)
                if found[:2] != (module, direction):
                    told.append(f"{what} in {module}: {found[0] or 'nothing'} {found[1] or ''}")
            table.add_row(name, direction, kind, str(len(modules)), str(len(modules) - len(told)))
            tried, wrong = tried + len(modules), wrong + told
    return tried, wrong


def main() -> int:
    table = Table("model", "direction", "kind", "modules", "named rightly")
    tried, wrong = 0, []
    with tempfile.TemporaryDirectory(prefix="attribution-") as folder:
        root = make_tiny_data(Path(folder), train=2, val=1)
        configs = [tiny_config(name, root) for name in ("bifusion_small", "oneformer3d_small")]
        for config in (*configs, tiny_mask3d(root)):
            counts = sweep(config.recipe, tiny_step(config), table)
            tried, wrong = tried + counts[0], wrong + counts[1]
    console = Console()
    console.print(table)
    for line in wrong:
        console.print(line, markup=False, highlight=False)
    console.print(f"{tried - len(wrong)} of {tried} named at the right first module")
    return 0 if tried and len(wrong) <= (1 - WANTED) * tried else 1


if __name__ == "__main__":
    sys.exit(main())
