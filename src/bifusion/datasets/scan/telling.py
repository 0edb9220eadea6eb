"""What is said while a scan is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


def _nothing(*_: object) -> None:
    pass


@dataclass
class Telling:
    """Lines for the user, said when they are known and kept, and progress of the long parts."""

    say: Callable[[str], None] = _nothing
    progress: Callable[[str, int, int], None] = _nothing
    """Called with what is done, how much of it, of how much."""
    lines: list[str] = field(default_factory=list)

    def add(self, lines: Iterable[str]) -> None:
        """Says each line that was not said yet."""
        for line in lines:
            if line not in self.lines:
                self.lines.append(line)
                self.say(line)
