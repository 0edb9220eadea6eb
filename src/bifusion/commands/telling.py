"""What is said and how far it is, on the screen, while scans are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, TaskID

from bifusion.untrusted.screen import Screen
from bifusion.wording import plural

if TYPE_CHECKING:
    from bifusion.datasets.scan.telling import Telling

QUARTERS = 4
GOES_ON = "the same command goes on where it was"


def say(console: Console, line: str) -> None:
    """Prints a line as it is, however long."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def going_on(overwrite: bool = False) -> Iterator[None]:
    """Many inputs of which each is kept once it is done, but for those of a command that is to
    `overwrite` them: where the block is interrupted, the command's last line says so."""
    try:
        yield
    except KeyboardInterrupt as error:
        again = GOES_ON.replace("command", "command without --overwrite") if overwrite else GOES_ON
        error.add_note(f"what is done is kept, {again}")
        raise


def tell_failed(failed: dict[str, str], one: str, done: str) -> int:
    """Lists on stderr what is wrong with each of many inputs; the exit status: 1 if there is one.

    `one`, `done`: what each is, and what could not be done with it: "scene", "predicted".
    """
    if failed:
        errors = Screen(stderr=True)
        say(errors, f"{plural(len(failed), one)} could not be {done}:")
        for name, why in failed.items():
            say(errors, f"{name}: {why}")
    return 1 if failed else 0


@contextmanager
def telling(console: Console) -> Iterator[Telling]:
    """Yields what functions that make scans tell: lines as they are known, and a bar for each long part;
    where there is no terminal, a few lines."""
    from bifusion.datasets.scan.telling import Telling

    if not console.is_terminal:
        yield Telling(lambda line: say(console, line), _Lines(console).progress)
        return
    with Progress(console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield Telling(lambda line: say(bars.console, line), progress)


class _Lines:
    """A line a quarter of what takes long."""

    def __init__(self, console: Console):
        self._console = console
        self._said: dict[str, int] = {}

    def progress(self, what: str, done: int, total: int) -> None:
        quarter = QUARTERS * done // max(total, 1)
        if total > 1 and quarter > self._said.get(what, 0):
            self._said[what] = quarter
            say(self._console, f"{what}: {done}/{total}")
