"""`python -m laboratory`: runs the fault corpus; exit status 1 if an expectation fails."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.progress import track

from laboratory.corpus import corpus
from laboratory.faults import Fault
from laboratory.run import Laboratory
from laboratory.table import print_table, summary, to_json

TABLE_WIDTH = 170
"""Columns of a line of the table, also where the output is no terminal."""


@dataclass
class Arguments:
    """Breaks tiny runs in every way known and judges what the product says about it."""

    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds that draw faults, victims and places; any numbers will do."""
    only: tuple[str, ...] = ()
    """Parts of names: only faults that have one of them in theirs."""
    json: bool = False
    """Print the results as JSON instead of a table."""
    list: bool = False
    """Print the faults with their labels and run none."""
    details: bool = False
    """Also say what each run said."""
    folder: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where runs are kept, an empty folder; None: a temporary one."""


def main(arguments: Arguments) -> int:
    """Runs the faults; 0 if every expectation was met."""
    with tempfile.TemporaryDirectory(prefix="bifusion-laboratory-") as temporary:
        return _main(arguments, arguments.folder or Path(temporary))


def _main(arguments: Arguments, folder: Path) -> int:
    console, started = Console(stderr=arguments.json, soft_wrap=True), time.perf_counter()
    console.width = max(console.width, TABLE_WIDTH)
    laboratory = Laboratory(folder)
    chosen: list[tuple[int, Fault]] = []
    for seed in arguments.seed:
        for fault in corpus(laboratory.workshop, seed):
            if not arguments.only or any(part in fault.name for part in arguments.only):
                chosen.append((seed, fault))
    if arguments.list:
        for seed, fault in chosen:
            console.print(f"{seed} {fault.recipe}: {fault.name}: {fault.expected.label}, {fault.why}")
        return 0
    bar = track(chosen, "faults", console=Console(stderr=True), transient=True)
    results = [laboratory.run(fault, seed) for seed, fault in bar]
    if arguments.json:
        print(json.dumps(to_json(results), indent=1, ensure_ascii=False))
    else:
        print_table(results, console, details=arguments.details)
    seconds = time.perf_counter() - started
    console.print(f"{summary(results)}; {seconds:.0f} s")
    return 0 if results and all(result.as_expected for result in results) else 1


if __name__ == "__main__":
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
    sys.exit(main(tyro.cli(Arguments)))
