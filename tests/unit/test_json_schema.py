"""Schemas made from dataclasses: what they allow is what `to_json` writes, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import jsonschema
import pytest

from bifusion.storage.json_files import to_json
from bifusion.storage.json_schema import Count, Finite, field_docs, json_schema


@dataclass
class Leaf:
    """A leaf."""

    size: float
    """Metres; null where
    it was not measured."""


@dataclass
class Grown(Leaf):
    """A leaf that was counted."""

    count: Count
    """How often."""


@dataclass
class Tree:
    """Everything that a report may hold."""

    kind: Literal["oak", "elm"]
    """Kind."""
    leaf: Leaf | None
    """The first."""
    by_seed: dict[int, Finite]
    """Seed → height."""
    pairs: list[tuple[str, int]]
    """(name, number)."""
    grown: list[Grown] = field(default_factory=list)
    """The others."""
    anything: Any = None
    """Free."""


SCHEMA = json_schema(Tree, "Trees")


def tree(**changes: Any) -> dict[str, Any]:
    whole = Tree("oak", Leaf(math.nan), {0: 1.5}, [("a", 1)], [Grown(2.0, 3)], {"free": [1]})
    return to_json(whole) | changes


def test_what_is_written_is_allowed():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(tree(), SCHEMA)
    jsonschema.validate(tree(leaf=None), SCHEMA)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "ash"},
        {"leaf": {}},
        {"leaf": {"size": "1"}},
        {"leaf": {"size": 1.0, "more": 1}},
        {"by_seed": {"0": None}},
        {"pairs": [["a"]]},
        {"pairs": [["a", 1, 2]]},
        {"pairs": [[1, "a"]]},
        {"grown": [{"size": 1.0, "count": -1}]},
        {"grown": None},
        {"unknown": 1},
    ],
)
def test_anything_else_is_refused(changes):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree(**changes), SCHEMA)


def test_a_missing_key_is_refused():
    content = tree()
    del content["anything"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMA)


def test_docstrings_become_descriptions():
    assert SCHEMA["title"] == "Trees" and SCHEMA["description"] == "Everything that a report may hold."
    assert SCHEMA["properties"]["leaf"]["description"] == "The first."
    leaf = SCHEMA["$defs"]["Leaf"]
    assert leaf["properties"]["size"]["description"] == "Metres; null where it was not measured."
    assert list(field_docs(Grown)) == ["size", "count"]


@dataclass
class Silent:
    """A field that says nothing."""

    size: float


@dataclass
class Strange:
    """A field that JSON does not have."""

    size: complex
    """Size."""


@pytest.mark.parametrize(("kind", "message"), [(Silent, "docstring below size"), (Strange, "complex")])
def test_what_cannot_be_told_is_refused(kind, message):
    with pytest.raises(TypeError, match=message):
        json_schema(kind, "")
