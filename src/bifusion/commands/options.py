"""The options that tyro makes of a dataclass, as data: for short help and for what was meant by a
misspelt one. Names, types, defaults and meanings are those of the fields and of nothing else.
"""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

REQUIRED = dataclasses.MISSING
"""The default of an option that has none."""
_METAVARS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


@dataclass(frozen=True)
class Option:
    """One option, or one positional argument."""

    name: str
    """As it is typed, without the dashes: "trainer.batch-size"."""
    hint: Any
    """The field's type, without None and without what is annotated to it."""
    default: Any
    text: str
    """What the docstring below the field says; empty where there is none."""
    positional: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """What a Literal allows; empty for others."""
        return tuple(map(str, get_args(self.hint))) if get_origin(self.hint) is Literal else ()

    @property
    def numbers(self) -> type | None:
        """int or float, of an option that takes any number of these; None for others."""
        args = get_args(self.hint)
        several = get_origin(self.hint) is tuple and args[1:] == (Ellipsis,)
        return _plain(args[0]) if several and _plain(args[0]) in (int, float) else None

    @property
    def values(self) -> int | None:
        """How many words follow it; None: any number."""
        origin, args = get_origin(self.hint), get_args(self.hint)
        if self.hint is bool:
            return 0
        if origin in (list, dict, set, frozenset) or Ellipsis in args:
            return None
        return len(args) if origin is tuple else 1

    @property
    def flags(self) -> tuple[str, ...]:
        """With the dashes, the form that is false included."""
        parents, dot, name = self.name.rpartition(".")
        negative = (f"--{parents}{dot}no-{name}",) if self.hint is bool else ()
        return (f"--{self.name}", *negative)

    @property
    def metavar(self) -> str:
        """What stands for the value: INT, PATH, {a,b}, FLOAT ...; nothing for a switch."""
        if self.hint is bool:
            return ""
        if self.choices:
            return "{" + ",".join(self.choices) + "}"
        origin, args = get_origin(self.hint), get_args(self.hint)
        if origin in (tuple, list) and args:
            kinds = [_METAVARS.get(_plain(kind), "VALUE") for kind in args if kind is not Ellipsis]
            return f"{kinds[0]} ..." if Ellipsis in args or origin is list else " ".join(kinds)
        return _METAVARS.get(self.hint, "KEY VALUE ..." if origin is dict else "VALUE")


def list_options(kind: type, instance: Any = None, parent: str = "") -> Iterator[Option]:
    """Every option of the dataclass `kind` and of those that its fields hold, in order.

    Args:
        instance: whose values are the defaults; None: the fields' own.
        parent: dotted name of the whole that it is a part of.
    """
    hints, texts = get_type_hints(kind, include_extras=True), field_texts(kind)
    for field in dataclasses.fields(kind):
        marks = _marks(hints[field.name])
        if not field.init or tyro.conf.Suppress in marks:
            continue
        value = _default(field) if instance is None else getattr(instance, field.name)
        given = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), None)
        name = _joined(parent, field.name if given is None else given)
        if parts := list(_parts(name, value)):
            for where, part in parts:
                yield from list_options(type(part), part, where)
            continue
        hint, text = _plain(hints[field.name]), texts.get(field.name, "")
        if isinstance(value, Mapping) and value:  # one option a key
            of_value = _plain(get_args(hint)[1])
            for key, item in value.items():
                yield Option(_joined(name, str(key)), of_value, item, text)
        else:
            yield Option(name, hint, value, text, positional=tyro.conf.Positional in marks)


@cache
def field_texts(kind: type) -> dict[str, str]:
    """What the docstrings below the fields of a dataclass say, each on one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            match field, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = " ".join(text.split())
    return texts


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The dataclasses in a field's value, by their dotted names."""
    if dataclasses.is_dataclass(value):
        yield name, value
        return
    items = value.items() if isinstance(value, Mapping) else ()
    items = enumerate(value) if isinstance(value, list | tuple) else items
    for key, item in items:
        if dataclasses.is_dataclass(item):
            yield _joined(name, str(key)), item


def _joined(parent: str, name: str) -> str:
    return ".".join(part for part in (parent, name.replace("_", "-")) if part)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _marks(hint: Any) -> tuple[Any, ...]:
    return hint.__metadata__ if get_origin(hint) is Annotated else ()


def _plain(hint: Any) -> Any:
    """A type without annotations, and without the None that may stand in its place."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return _plain(kinds[0]) if len(kinds) == 1 else hint
    return hint
