"""Inputs of a target, one after another in a process of their own, under limits of time and memory."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import shutil
import traceback
import warnings
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bifusion.device_memory import most_resident_mb
from bifusion.errors import InputError
from laboratory.fuzz.target import Sample, Target, changed_file

MOST_SECONDS = 20
"""Of one input, none of which has more than a megabyte."""
MOST_MEMORY = 1 << 30
"""Bytes that reading one input may add."""
MOST_TOLD = 4000
"""Letters of what is told of a finding."""
STDERR = 2
"""Whatever `sys.stderr` is: in a test, what pytest keeps."""
HANG = "hang"
LOG, FINDINGS = "log.txt", "findings.jsonl"


@dataclass(frozen=True)
class Finding:
    """An input that did something else than be read or refused."""

    target: str
    number: int
    """−1: the sample as it was written."""
    what: str
    """The exception, "memory", "no message", `HANG`, or how the process ended."""
    details: str


@dataclass(frozen=True)
class Share:
    """What came of a row of inputs."""

    done: int
    """Those that follow one which ended the process are still to be tried."""
    refused: int
    findings: list[Finding]


class Worker:
    """A process that tries inputs `first` … `last` − 1 of a target in a new folder, `place`.

    It is a fork of this one, which must not have run threads of a library before (Embree's, OpenMP's):
    the fork would wait for them for ever.
    """

    def __init__(
        self,
        target: Target,
        sample: Sample,
        first: int,
        last: int,
        place: Path,
        change: tuple[Path, bytes] | None = None,
    ):
        """`change`: what is changed, and into what, instead of what follows from an input's number."""
        place.mkdir(parents=True)
        self.target, self.first, self.last, self.place = target, first, last, place
        context = get_context("fork")
        self._counts = context.RawArray("q", 2)
        arguments = (target, sample, first, last, self._counts, place, change)
        self.process = context.Process(target=_try_inputs, args=arguments)
        self.process.start()

    def share(self) -> Share:
        """What came of them, at the process's end; the folder is gone then."""
        self.process.join()
        done, refused = self._counts
        lines = (self.place / FINDINGS).read_text().splitlines()
        findings = [Finding(**json.loads(line)) for line in lines]
        number = self.first + done
        if number < self.last:  # it ended within an input
            said = (self.place / LOG).read_text(errors="replace")
            what = HANG if "Timeout" in said else f"process ended with {self.process.exitcode}"
            findings.append(Finding(self.target.name, number, what, said[:MOST_TOLD]))
            done += 1
        shutil.rmtree(self.place)
        return Share(done, refused, findings)


def try_reading(target: Target, path: Path) -> Finding | bool:
    """Whether `path` was refused; what reading it did that it must not do, as a finding numbered −1."""
    before = _most_memory()
    refused = False
    try:
        target.read(path)
    except InputError as error:
        refused = True
        if not str(error):
            return Finding(target.name, -1, "no message", repr(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever else is raised is what is looked for
        said = "".join(traceback.format_exception(error, limit=-12))
        return Finding(target.name, -1, f"{type(error).__name__}: {str(error)[:200]}", said[-MOST_TOLD:])
    added = _most_memory() - before
    if added > MOST_MEMORY:
        return Finding(target.name, -1, "memory", f"{added:,} bytes more than before")
    return refused


def limit_process() -> None:
    """Limits this process: memory, no core dumps; what it did when it crashed is written to stderr."""
    _give_back()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    most = size + 2 * MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(STDERR)
    warnings.simplefilter("ignore")


def _give_back() -> None:
    """What the process that this one was forked from has freed and kept, of which a reader would take
    gigabytes unseen. The peak counts from now on."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _most_memory() -> int:
    return int(most_resident_mb() * 2**20)


def _try_inputs(
    target: Target,
    sample: Sample,
    first: int,
    last: int,
    counts: Any,
    place: Path,
    change: tuple[Path, bytes] | None,
) -> None:
    """Counts: of inputs that are done, and of those that were refused."""
    mine = sample.copied(place / "sample")
    with open(place / LOG, "w") as log, open(place / FINDINGS, "w") as findings:
        for stream in (1, 2):  # and what libraries say of damaged files
            os.dup2(log.fileno(), stream)
        limit_process()
        if first == 0 and change is None:
            found = _timed_reading(target, mine)
            if found:
                refused = Finding(target.name, -1, "the sample itself is refused", str(mine.folder))
                print(json.dumps(asdict(refused if found is True else found)), file=findings, flush=True)
        for number in range(first, last):
            changed, content = change or changed_file(target, mine, number)
            (mine.folder / changed).write_bytes(content)
            found = _timed_reading(target, mine)
            (mine.folder / changed).write_bytes(mine.originals[changed])
            if isinstance(found, Finding):
                line = json.dumps(asdict(replace(found, number=number)))
                print(line, file=findings, flush=True)
            else:
                counts[1] += found
            counts[0] += 1


def _timed_reading(target: Target, sample: Sample) -> Finding | bool:
    """`try_reading`, within `MOST_SECONDS`, or this process ends."""
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True, file=STDERR)
    found = try_reading(target, sample.folder / sample.read)
    faulthandler.cancel_dump_traceback_later()
    return found
