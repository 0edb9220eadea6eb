"""`python -m laboratory.hostile`: every kind of hostile input in place of every file that a reader
opens; exit status 1 if one is neither read nor refused."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from laboratory.fuzz.target import make_sample
from laboratory.fuzz.targets import TARGETS
from laboratory.hostile.run import Tried, inputs_of, try_inputs


@dataclass
class Arguments:
    """Reads hostile inputs, each reader's under limits of time and memory."""

    only: tuple[str, ...] = ()
    """Parts of names: only targets that have one of them in theirs."""
    most: int | None = None
    """Inputs of a kind for one file."""
    once: bool = False
    """Each kind for one file alone, the first that it can stand for."""
    kinds: bool = False
    """Print every kind with its counts."""


def main(arguments: Arguments) -> int:
    """Tries the inputs; 0 if all of them were read or refused."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    chosen = [one for one in TARGETS if not arguments.only or any(p in one.name for p in arguments.only)]
    tried, done = list[Tried](), set[str]()
    with tempfile.TemporaryDirectory(prefix="bifusion-hostile-") as work:
        for number, target in enumerate(chosen):
            sample = make_sample(target, Path(work) / f"sample{number}")
            inputs = inputs_of(sample, 1 if arguments.once else arguments.most)
            if arguments.once:
                inputs = [one for one in inputs if one.kind not in done]
                inputs = list({one.kind: one for one in reversed(inputs)}.values())[::-1]
                done |= {one.kind for one in inputs}
            for one in try_inputs(target, sample, inputs, Path(work) / f"process{number}"):
                tried.append(one)
                if one.finding is not None:
                    console.print(f"{one.target}, {one.file}, {one.kind}: {one.finding.what}")
                    console.print(one.finding.details[-1500:])
            console.print(f"{target.name}: {len(inputs):,} inputs")
    _show(tried, console, by_kind=arguments.kinds)
    bad = sum(one.finding is not None for one in tried)
    kinds = len({one.kind for one in tried})
    refused = sum(one.refused for one in tried)
    console.print(
        f"{len(tried):,} inputs of {kinds} kinds for {len(chosen)} readers: {refused:,} refused, "
        f"{len(tried) - refused - bad:,} read, {bad} findings"
    )
    return 1 if bad else 0


def _show(tried: list[Tried], console: Console, by_kind: bool) -> None:
    """A line a kind, or a group of kinds."""
    table = Table("kind" if by_kind else "kinds", "inputs", "refused", "findings")
    rows: dict[str, Counter[str]] = {}
    for one in tried:
        group, _, rest = one.kind.partition(": ")
        name = one.kind if by_kind else group if rest else "in place of a file"
        rows.setdefault(name, Counter()).update(
            {"inputs": 1, "refused": one.refused, "findings": one.finding is not None}
        )
    for name, counts in rows.items():
        table.add_row(name, *(f"{counts[key]:,}" for key in ("inputs", "refused", "findings")))
    console.print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)  # processes are forked
    sys.exit(main(tyro.cli(Arguments)))
