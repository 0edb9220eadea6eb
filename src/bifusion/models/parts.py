"""The parts of the models, and the path of the network that each lies on: the only table of their names.

Whatever speaks of a part (the monitor's gradient norms, rules, rates by depth, attribution, reports,
`bifusion info`) reads it here. A model whose parameters are not all in a known part is refused, so that
nothing that trains goes unwatched.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

from torch import nn

from bifusion.errors import InputError

NetworkPath = Literal["2d", "3d", "fusion", "decoder"]
PATH_LABELS: dict[NetworkPath, str] = {
    "2d": "2D path",
    "3d": "3D path",
    "fusion": "fusion",
    "decoder": "decoder and losses",
}
T = TypeVar("T")
Groups = dict[str, list[nn.Parameter]]
"""Parameters by group, as a model's `parameter_groups` gives them."""


@dataclass(frozen=True)
class Part:
    """A part whose gradient is watched as one."""

    name: str
    """In records and findings: `grad_norm.NAME`, "gradient.NAME"."""
    label: str
    path: NetworkPath
    groups: tuple[str, ...]
    """Patterns (fnmatch) of its parameter groups."""
    modules: tuple[str, ...] = ()
    """Where in a model a fault is this part's: dotted paths, and names of what runs between modules."""
    counted_as: str = ""
    """What its parameters count as in tables of sizes; empty: its label."""


PARTS = (
    Part("conv1", "image tower's conv1", "2d", ("tower.conv1_*",), counted_as="image tower"),
    Part("tower", "image tower", "2d", ("tower.*",), ("tower",), "image tower"),
    Part("head_2d", "2D head", "2d", ("head_2d",), ("fusion.head_2d",), "heads and fusion"),
    Part("head_3d", "3D head", "3d", ("head_3d",), ("fusion.head_3d",), "heads and fusion"),
    Part("backbone", "3D backbone", "3d", ("backbone",), ("unet",)),
    Part(
        "fusion",
        "Fusion (FiLM, gate)",
        "fusion",
        ("film", "gate", "align"),
        ("fusion", "lifting", "geometric_code"),
        "heads and fusion",
    ),
    Part("decoder", "Decoder", "decoder", ("decoder",), ("decoder", "pooling", "criterion"), "decoder"),
)
"""A group is of the first part with a pattern that matches it. The 3D head is a part of its own: its
gradient would hide that of a 3D backbone which has stopped learning."""
BY_NAME = {part.name: part for part in PARTS}


def part_of_group(group: str) -> Part | None:
    """The part that a parameter group is of; None for a group that the table does not know."""
    matching = (part for part in PARTS if any(fnmatchcase(group, p) for p in part.groups))
    return next(matching, None)


def part_of_module(module: str) -> Part | None:
    """The part that a module (dotted) or a step between modules is of: that with the most special
    entry, as the heads lie within the fusion."""
    found = [
        (name, part)
        for part in PARTS
        for name in part.modules
        if module == name or module.startswith(f"{name}.")
    ]
    return max(found, key=lambda entry: len(entry[0]))[1] if found else None


def is_of_tower(group: str) -> bool:
    """A parameter group, or a pattern of some, of the image tower."""
    return group.startswith("tower.")


def without_tower(table: dict[str, T]) -> dict[str, T]:
    """A table by groups, or patterns of some, without those of the image tower."""
    return {group: value for group, value in table.items() if not is_of_tower(group)}


def tower_block(group: str) -> int | None:
    """Number of the image tower's block that a group is, from 0 at the input; None for another group."""
    match = re.fullmatch(r"tower\.block(\d+)", group)
    return int(match.group(1)) if match else None


def check_groups(model: nn.Module, groups: Groups) -> None:
    """InputError, naming it, for a parameter group that the table does not know, and for a parameter
    that is not in exactly one group: no norm would be recorded of it, and no rule look at it."""
    unknown = [group for group in groups if part_of_group(group) is None]
    if unknown:
        known = ", ".join(pattern for part in PARTS for pattern in part.groups)
        raise InputError(
            f"{type(model).__name__}.parameter_groups: {', '.join(unknown)} is of no known part, so "
            f"nothing would watch it; known are {known}. Add it to PARTS in models/parts.py"
        )
    times = Counter(id(parameter) for parameters in groups.values() for parameter in parameters)
    wrong = [name for name, parameter in model.named_parameters() if times[id(parameter)] != 1]
    if wrong:
        raise InputError(
            f"{type(model).__name__}.parameter_groups: {', '.join(wrong[:5])} must be in one group, and "
            f"in no other; found in {times[id(model.get_parameter(wrong[0]))]}"
        )
