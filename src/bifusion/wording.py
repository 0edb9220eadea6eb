"""How numbers are told in sentences."""

from __future__ import annotations


def plural(value: int, one: str) -> str:
    """ "1 epoch", "3 epochs"."""
    return f"{value:,} {one if value == 1 else one + 's'}"
