"""Many inputs of many targets, several processes at a time, each with some hundred inputs of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from laboratory.fuzz.target import Sample, Target, make_sample
from laboratory.fuzz.worker import HANG, Finding, Worker

ROW = 500
"""Inputs of a process, which costs some hundredths of a second."""
MOST_FINDINGS = 20
"""Of one target, at which it is left."""


@dataclass
class Count:
    """Of a target's inputs."""

    tried: int = 0
    refused: int = 0
    findings: int = 0


@dataclass
class Progress:
    """What has been tried, kept in a file so that an interrupted call goes on."""

    path: Path
    counts: dict[str, Count] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Progress:
        """The stored one, or an empty one."""
        stored = json.loads(path.read_text()) if path.exists() else {}
        return cls(path, {name: Count(**count) for name, count in stored.items()})

    def of(self, target: Target) -> Count:
        return self.counts.setdefault(target.name, Count())

    def write(self) -> None:
        content = json.dumps({name: vars(count) for name, count in self.counts.items()}, indent=1)
        self.path.with_suffix(".new").write_text(content)
        self.path.with_suffix(".new").replace(self.path)


def inputs_of(target: Target, share: float, most: int | None) -> int:
    """How many of a target's inputs a call tries: at least one."""
    inputs = max(1, round(target.inputs * share))
    return inputs if most is None else min(most, inputs)


def fuzz(
    targets: Sequence[Target],
    work: Path,
    progress: Progress,
    *,
    share: float = 1.0,
    most: int | None = None,
    jobs: int = 1,
    say: Callable[[Target, Count], object] = lambda target, count: None,
) -> Iterator[tuple[Target, Sample, Finding]]:
    """Tries the inputs of each target that have not been tried, and yields what it finds.

    Args:
        work: new folder for samples and processes.
        share, most: of each target's inputs.
        jobs: processes at a time.
        say: told of a target whenever some of its inputs are done.
    """
    running: list[tuple[Worker, Sample]] = []
    wanted = {target.name: inputs_of(target, share, most) for target in targets}
    rows = _rows(targets, work, progress, wanted)
    exhausted = False
    try:
        while running or not exhausted:
            while len(running) < jobs and not exhausted:
                row = next(rows, None)
                exhausted = row is None
                if row is not None:
                    target, sample, first, last = row
                    place = work / "processes" / f"{target.name}-{first}"
                    running.append((Worker(target, sample, first, last, place), sample))
            ended = wait([worker.process.sentinel for worker, _ in running]) if running else []
            for worker, sample in [one for one in running if one[0].process.sentinel in ended]:
                running.remove((worker, sample))
                target, count, found = worker.target, progress.of(worker.target), worker.share()
                behind = worker.first + found.done
                if behind < worker.last and count.findings < MOST_FINDINGS:
                    place = work / "processes" / f"{target.name}-{behind}"
                    running.append((Worker(target, sample, behind, worker.last, place), sample))
                findings = [one for one in found.findings if not _was_only_slow(one, worker, sample)]
                count.tried += found.done
                count.refused += found.refused
                count.findings += len(findings)
                progress.write()
                say(target, count)
                for finding in findings:
                    yield target, sample, finding
    finally:
        for worker, _ in running:
            worker.process.kill()


def _was_only_slow(finding: Finding, worker: Worker, sample: Sample) -> bool:
    """Whether an input that took too long is read in time once more: the machine had other work then."""
    if finding.what != HANG:
        return False
    again = Worker(worker.target, sample, finding.number, finding.number + 1, worker.place)
    return not again.share().findings


def try_one(target: Target, sample: Sample, changed: tuple[Path, bytes], place: Path) -> Finding | None:
    """What reading the sample does with one file changed, in a process under the same limits."""
    worker = Worker(target, sample, 0, 1, place, change=changed)
    findings = worker.share().findings
    return findings[0] if findings else None


def _rows(
    targets: Sequence[Target], work: Path, progress: Progress, wanted: dict[str, int]
) -> Iterator[tuple[Target, Sample, int, int]]:
    for target in targets:
        count, inputs = progress.of(target), wanted[target.name]
        if count.tried >= inputs:
            continue
        sample = make_sample(target, work / "samples" / target.name)
        for first in range(count.tried, inputs, ROW):
            if progress.of(target).findings >= MOST_FINDINGS:
                break
            yield target, sample, first, min(first + ROW, inputs)
