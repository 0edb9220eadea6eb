"""One of n processes, or machines, that write scenes of the same inputs into one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bifusion.errors import InputError
from bifusion.storage.files import locked

T = TypeVar("T")
LAUNCHERS = (("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ""))
"""What torchrun and srun tell each process they start: its number, of how many, and a name that nothing
else sets. (SLURM_NTASKS is set in a batch script too, whose commands are one process.)"""


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count`, counted from 1."""

    number: int
    count: int

    @property
    def lock(self) -> str:
        """Name of the file that it locks."""
        return f".scan-{self.number}-of-{self.count}.lock"

    def of(self, things: Sequence[T]) -> list[T]:
        """Its part of `things`: every `count`-th."""
        return list(things[self.number - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Shard(1, 1)


def parse_shard(text: str) -> Shard:
    """The shard of "i/n"; InputError for anything else."""
    parts = text.split("/")
    if len(parts) == 2 and all(part.isdecimal() for part in parts):
        number, count = map(int, parts)
        if 1 <= number <= count:
            return Shard(number, count)
    raise InputError(f"shard: found {text!r}; expected i/n with 1 ≤ i ≤ n, such as 1/4")


def launched_shard() -> Shard | None:
    """The shard of a process that torchrun or srun started as one of several; None: it was not."""
    for number, count, mark in LAUNCHERS:
        if number in os.environ and count in os.environ and (not mark or mark in os.environ):
            found = Shard(int(os.environ[number]) + 1, int(os.environ[count]))
            return found if found.count > 1 else None
    return None


def asked_shard(text: str | None) -> Shard:
    """The shard of "i/n"; without it the launcher's, or the whole. InputError as `parse_shard`."""
    return parse_shard(text) if text is not None else launched_shard() or WHOLE


@contextmanager
def locked_shard(out: Path, shard: Shard) -> Iterator[None]:
    """Keeps `out` for the shards of one count, and this one of them for this process.

    Raises InputError: another process writes the same shard, the whole, or a shard of another count,
    which would share some of the inputs.
    """
    with ExitStack() as held:
        with locked(out, wait=True, name=".scan.lock"):  # so that no two look and take at once
            _refuse_other_counts(out, shard)
            held.enter_context(locked(out, name=shard.lock))
            if shard == WHOLE:
                held.enter_context(locked(out))
        yield


def _refuse_other_counts(out: Path, shard: Shard) -> None:
    for path in sorted(out.glob(".scan-*-of-*.lock")):
        if path.name.endswith(f"-of-{shard.count}.lock"):
            continue
        try:
            with locked(out, name=path.name):
                pass
        except InputError as error:
            number, count = path.stem.removeprefix(".scan-").split("-of-")
            if count == "1":
                raise
            raise InputError(
                f"{out}: another process is writing shard {number}/{count} here; shard {shard.number}/"
                f"{shard.count} has some of its inputs. Give all processes the same number of shards"
            ) from error
