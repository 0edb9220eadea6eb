"""Arguments of a command from a typed dataclass (tyro)."""

from typing import TypeVar

import tyro

T = TypeVar("T")


def parse(kind: type[T], args: list[str], command: str) -> T:
    """`args` as a `kind`; prints help or what is wrong with them and leaves (status 0 or 2)."""
    return tyro.cli(kind, args=args, prog=f"bifusion {command}")
