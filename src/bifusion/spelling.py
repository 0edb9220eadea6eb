"""What was probably meant by a name that nothing has: the one place that guesses, for messages only."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_CUTOFF = 0.6
_CUTOFF_OF_A_PART = 0.8
"""Short names are like each other by chance."""
_LEAST_BEGINNING = 3
_MOST_LETTERS = 100
"""Longer names are like none, and take long to compare."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'mask_dice'?)" where something like `name` is known, else nothing."""
    close = closest(name, known)
    return "" if close is None else f" (did you mean {close!r}?)"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, whatever the case of its letters; None where none is like it.

    Its beginning may have been given ("bf16" for "bf16-mixed"), or the last part of a dotted name:
    "epochs" stands for "trainer.epochs", and "trainer.seed" for "seed".
    """
    if len(name) > _MOST_LETTERS:
        return None
    names = list(known)
    begun = [
        one for one in names if len(name) >= _LEAST_BEGINNING and one.lower().startswith(name.lower())
    ]
    if len(begun) == 1:
        return begun[0]
    folded = {one.lower(): one for one in reversed(names)}
    last = [one for one in folded if one.rpartition(".")[2] == name.lower().rpartition(".")[2]]
    found = get_close_matches(name.lower(), last, n=1, cutoff=0.0)
    found = found or get_close_matches(name.lower(), folded, n=1, cutoff=_CUTOFF)
    if found:
        return folded[found[0]]
    ends = {one.lower().rpartition(".")[2]: one for one in reversed(names) if "." in one}
    found = get_close_matches(name.lower().rpartition(".")[2], ends, n=1, cutoff=_CUTOFF_OF_A_PART)
    return ends[found[0]] if found else None
