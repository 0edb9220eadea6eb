"""What the processes of a run were last heard of, and whether they stand still."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Told:
    """What a process says of itself."""

    mark: int
    """Counts what it was at so far."""
    what: str
    place: str
    """Where in the package its main thread is."""
    host: str
    pid: int


@dataclass
class Seen:
    """What was last heard of a process."""

    told: Told
    since: float
    """Time of the listener's clock since when it is at this; clocks of machines are not compared."""

    def hear(self, told: Told, now: float) -> None:
        if told.mark != self.told.mark:
            self.since = now
        self.told = told


def who(number: int, told: Told) -> str:
    """A process by its rank, its machine and its number there."""
    known = f" ({told.host}, process {told.pid})" if told.host else ""
    return f"rank {number}{known}"


def hang_told(seen: Mapping[int, Seen], now: float, limit_seconds: float) -> str | None:
    """Who is where, where one has been at the same thing for too long; None: nobody has."""
    if max(now - one.since for one in seen.values()) <= limit_seconds:
        return None
    lines = [f"the run hangs: nothing went on for {limit_seconds:g} s in one process at least"]
    for number, one in sorted(seen.items()):
        place = f", at {one.told.place}" if one.told.place else ""
        lines.append(f"  {who(number, one.told)}: {one.told.what}, for {now - one.since:.0f} s{place}")
    return "\n".join(lines)
