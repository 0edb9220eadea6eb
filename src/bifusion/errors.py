"""What the user is told of bad input. Little is imported here: help must not wait for torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MOST_LETTERS = 10_000
"""Of an error's message."""


class InputError(ValueError):
    """Bad input from the user: names the file or argument, what was found and expected, what to do.

    The command line prints its message without a traceback and leaves with status 2. A message that
    names what is endless is cut.
    """

    def __init__(self, message: str) -> None:
        long = len(message) > MOST_LETTERS
        super().__init__(f"{message[:MOST_LETTERS]} …" if long else message)


class SomeFailedError(InputError):
    """Of many inputs some are bad, each of which is named; all others are done.

    The command line leaves with status 1.
    """


FAILURES = (InputError, OSError, MemoryError)
"""What one bad input of many may raise; the others are not stopped by it."""
QUOTED_LETTERS = 200
"""Of another library's words within ours."""


def failure(error: BaseException, what: object) -> str:
    """A line on one of FAILURES that `what` met."""
    if isinstance(error, InputError):
        return str(error)
    reason = "it takes more memory than there is" if isinstance(error, MemoryError) else error
    return f"{what}: {reason}"


def first_line(error: BaseException) -> str:
    """What an error says first, for use within another one's words; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:QUOTED_LETTERS]


def listing(items: Iterable[str], limit: int = 6) -> str:
    """ "a, b, c and 4 more"."""
    items = list(items)
    more = len(items) - limit
    return ", ".join(items) if more <= 0 else f"{', '.join(items[:limit])} and {more} more"


def listing_lines(items: Sequence[str], limit: int) -> str:
    """The same, each on an indented line of its own, to stand behind a line that ends in a colon."""
    more = [f"… and {len(items) - limit} more"] if len(items) > limit else []
    return "".join(f"\n  {line}" for line in (*items[:limit], *more))
