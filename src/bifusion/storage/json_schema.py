"""The JSON schema (draft 2020-12) of what `to_json` makes of a dataclass, documented by its docstrings.

A class is an object with exactly its fields; the docstring below a field is the field's description.
A float may be null, since `to_json` writes null for what is not finite.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

Schema = dict[str, Any]


class Keyword(NamedTuple):
    """Beside a type in `Annotated`: a keyword of its schema."""

    name: str
    value: Any


Count = Annotated[int, Keyword("minimum", 0)]
Finite = Annotated[float, Keyword("type", "number")]
"""A float that is never null."""
PLAIN: Mapping[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},
    types.NoneType: {"type": "null"},
    Any: {},
}


def json_schema(cls: type, title: str) -> Schema:
    """The schema of a dataclass; dataclasses inside it stand under "$defs".

    TypeError for a type that JSON does not have, or a field without a docstring.
    """
    classes: dict[str, Schema] = {}
    _reference(cls, classes)
    content = classes.pop(cls.__name__)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return head | content | {"$defs": classes}


def field_docs(cls: type) -> dict[str, str]:
    """Field of a dataclass → the docstring below it, on one line; inherited fields included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _own_docs(base)
    return docs


@cache
def _own_docs(cls: type) -> dict[str, str]:
    (body,) = (
        node.body for node in ast.parse(inspect.getsource(cls)).body if isinstance(node, ast.ClassDef)
    )
    return {
        node.target.id: " ".join(str(text.value.value).split())
        for node, text in zip(body, body[1:], strict=False)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }  # fmt: skip


def _reference(cls: type, classes: dict[str, Schema]) -> Schema:
    """Where the schema of a dataclass stands; puts it there."""
    if cls.__name__ not in classes:
        classes[cls.__name__] = {}  # a class that holds itself
        docs, hints = field_docs(cls), get_type_hints(cls, include_extras=True)
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in docs]:
            raise TypeError(f"{cls.__name__}: no docstring below {', '.join(missing)}")
        classes[cls.__name__] = {
            "type": "object",
            "description": " ".join((cls.__doc__ or "").split()),
            "required": names,
            "additionalProperties": False,
            "properties": {
                name: _schema(hints[name], classes) | {"description": docs[name]} for name in names
            },
        }
    return {"$ref": f"#/$defs/{cls.__name__}"}


def _schema(kind: Any, classes: dict[str, Schema]) -> Schema:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _schema(inner[0], classes) | {word.name: word.value for word in inner[1:]}
    if kind in PLAIN:
        return dict(PLAIN[kind])
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _reference(kind, classes)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(one, classes) for one in inner]}
    if origin is list or (origin is tuple and inner[-1] is Ellipsis):
        return {"type": "array", "items": _schema(inner[0], classes)}
    if origin is tuple:
        items = [_schema(one, classes) for one in inner]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1], classes)}
    raise TypeError(f"{kind} has no JSON schema here")
