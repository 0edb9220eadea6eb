"""`python -m laboratory.fuzz`: mutated files for every reader; exit status 1 if one is neither read nor
refused. Interrupted, it goes on where it was."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from laboratory.fuzz.crash import keep, replay
from laboratory.fuzz.run import Count, Progress, fuzz, inputs_of
from laboratory.fuzz.target import Target
from laboratory.fuzz.targets import TARGETS


@dataclass
class Arguments:
    """Mutates small valid files and reads them, each reader's under limits of time and memory."""

    only: tuple[str, ...] = ()
    """Parts of names: only targets that have one of them in theirs."""
    share: float = 1.0
    """Of each target's inputs: 0.01 for a hundredth."""
    most: int | None = None
    """Inputs of a target, where its share is more."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/fuzz")
    """Where findings and what has been tried are kept."""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes at a time."""
    replay: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A finding's file: read what it holds once more, and say what happens."""
    list: bool = False
    """Print the targets and try none."""


def main(arguments: Arguments) -> int:
    """Tries the inputs; 0 if all of them were read or refused."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    chosen = [one for one in TARGETS if not arguments.only or any(p in one.name for p in arguments.only)]
    if arguments.replay is not None:
        finding = replay(arguments.replay, TARGETS)
        console.print("read, or refused" if finding is None else f"{finding.what}\n{finding.details}")
        return 0 if finding is None else 1
    if arguments.list:
        for target in chosen:
            console.print(f"{target.name}: {target.inputs:,} inputs")
        return 0
    return _fuzz(chosen, arguments, console)


def _fuzz(chosen: list[Target], arguments: Arguments, console: Console) -> int:
    arguments.out.mkdir(parents=True, exist_ok=True)
    progress = Progress.read(arguments.out / "progress.json")

    def say(target: Target, count: Count) -> None:
        whole = inputs_of(target, arguments.share, arguments.most)
        if count.tried >= whole or count.tried * 10 // whole != (count.tried - 500) * 10 // whole:
            console.print(
                f"{target.name}: {count.tried:,} of {whole:,}, {count.refused:,} refused, "
                f"{count.findings} findings"
            )

    with tempfile.TemporaryDirectory(prefix="bifusion-fuzz-", dir=_in_memory()) as work:
        found = fuzz(
            chosen,
            Path(work),
            progress,
            share=arguments.share,
            most=arguments.most,
            jobs=arguments.jobs,
            say=say,
        )
        for target, sample, finding in found:
            kept = (
                keep(target, sample, finding, arguments.out) if finding.number >= 0 else finding.details
            )
            console.print(f"{target.name} {finding.number}: {finding.what} ({kept})")
    counts = [progress.of(target) for target in chosen]
    total, bad = sum(count.tried for count in counts), sum(count.findings for count in counts)
    console.print(f"{total:,} inputs of {len(chosen)} readers, {bad} findings")
    return 1 if bad else 0


def _in_memory() -> str | None:
    """Where files are written without a disk, on which that takes longer than reading them does; None:
    this system has no such place."""
    place = "/dev/shm"
    return place if os.path.isdir(place) and os.access(place, os.W_OK) else None


if __name__ == "__main__":
    torch.set_num_threads(1)  # processes are forked
    sys.exit(main(tyro.cli(Arguments)))
