"""Puts hostile inputs in place of a sample's files, one after another, in a process under limits."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from laboratory.fuzz.target import Sample, Target
from laboratory.fuzz.worker import STDERR, Finding, limit_process, try_reading
from laboratory.hostile.kinds import kinds_for
from laboratory.hostile.put import CALLED, Put

MOST_SECONDS = 30
"""Of one input."""
MOST_TOLD = 4000
FINDINGS, LOG = "findings.jsonl", "log.txt"


@dataclass(frozen=True)
class Input:
    """A hostile input in place of a file."""

    kind: str
    file: Path
    """Within the sample's folder."""
    put: Put


@dataclass(frozen=True)
class Tried:
    """What reading an input came to."""

    target: str
    kind: str
    file: Path
    refused: bool
    finding: Finding | None
    """Where it was neither read nor refused within the limits."""


def inputs_of(sample: Sample, most: int | None) -> list[Input]:
    """All inputs for a sample; of a kind at most so many a file. Files that are alike (a recording's
    pictures) are one."""
    inputs = []
    for file in files_of(sample):
        counts = Counter[str]()
        for kind, put in kinds_for(sample.originals[file]):
            counts[kind] += 1
            if most is None or counts[kind] <= most:
                inputs.append(Input(kind, file, put))
    return inputs


def files_of(sample: Sample) -> list[Path]:
    """The sample's files, of those in one folder with the same ending the first and the largest."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in sample.originals:
        groups.setdefault((path.parent, path.suffix), []).append(path)
    largest = [max(group, key=lambda path: len(sample.originals[path])) for group in groups.values()]
    return sorted({*largest, *(group[0] for group in groups.values())})


def try_inputs(target: Target, sample: Sample, inputs: list[Input], work: Path) -> Iterator[Tried]:
    """Reads the sample with each input in turn; one that ends the process is a finding too."""
    done = 0
    while done < len(inputs):
        place = work / str(done)
        place.mkdir(parents=True)
        context = get_context("fork")
        count = context.RawValue("q", done)
        arguments = (target, sample, inputs, count, place)
        process = context.Process(target=_try_inputs, args=arguments)
        process.start()
        process.join()
        for line in (place / FINDINGS).read_text().splitlines():
            found = json.loads(line)
            one, refused = inputs[found.pop("number")], found.pop("refused")
            finding = Finding(**found["finding"]) if found["finding"] else None
            yield Tried(target.name, one.kind, one.file, refused, finding)
        done = count.value
        if done < len(inputs):  # it ended within an input
            yield _ended(target, inputs[done], process.exitcode, place / LOG)
            done += 1
        shutil.rmtree(place)


def _ended(target: Target, one: Input, exitcode: int | None, log: Path) -> Tried:
    said = log.read_text(errors="replace")
    what = "hang" if "Timeout" in said else f"process ended with {exitcode}"
    finding = Finding(target.name, -1, what, said[-MOST_TOLD:])
    return Tried(target.name, one.kind, one.file, False, finding)


def _try_inputs(target: Target, sample: Sample, inputs: list[Input], count: Any, place: Path) -> None:
    mine = sample.copied(place / "sample")
    with open(place / LOG, "w") as log, open(place / FINDINGS, "w") as findings:
        for stream in (1, 2):  # and what libraries say of damaged files
            os.dup2(log.fileno(), stream)
        limit_process()
        os.chdir(place)
        for number in range(count.value, len(inputs)):
            found = _try_input(target, mine, inputs[number])
            told = asdict(replace(found, number=number)) if isinstance(found, Finding) else None
            line = {"number": number, "refused": found is True, "finding": told}
            print(json.dumps(line), file=findings, flush=True)
            count.value = number + 1


def _try_input(target: Target, sample: Sample, one: Input) -> Finding | bool:
    """Whether it was refused, or what was wrong; afterwards the sample is as it was."""
    path = sample.folder / one.file
    path.unlink()
    one.put(path)
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True, file=STDERR)
    found = try_reading(target, sample.folder / sample.read)
    faulthandler.cancel_dump_traceback_later()
    if Path(CALLED).exists():
        found = Finding(target.name, -1, "a program in the file was run", str(one.file))
        Path(CALLED).unlink()
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(sample.originals[one.file])
    return found
