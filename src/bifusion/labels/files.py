"""labels.json: the classes of a data set, in its root (format: CONVENTIONS.md)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bifusion.errors import InputError, listing
from bifusion.labels.label_set import LabelClass, LabelSet, require_same_classes
from bifusion.labels.sets import LABEL_SETS, known_sets
from bifusion.spelling import did_you_mean
from bifusion.untrusted.json_text import read_json

LABELS_FILE = "labels.json"
FIELDS = ("name", "classes")
CLASS_FIELDS = {field.name: field for field in dataclasses.fields(LabelClass)}


def labels_of_data(root: Path, name: str) -> LabelSet:
    """The classes of the data set in `root`: its labels.json's; without one, the built-in `name`'s.

    Raises InputError for a file that is no label set, and, without one, for a name not built in.
    """
    path = Path(root) / LABELS_FILE
    if path.is_file():
        return read_labels(path)
    if name not in LABEL_SETS:
        lacks = f"{root} has no {LABELS_FILE}" if Path(root).is_dir() else f"there is no folder {root}"
        raise InputError(
            f"label set {name!r} is not built in{did_you_mean(name, LABEL_SETS)}, and {lacks}: name a "
            f"built-in one ({known_sets()}), or write the data set's own classes into its {LABELS_FILE}"
        )
    return LABEL_SETS[name]


def read_labels(path: Path) -> LabelSet:
    """The label set in `path`; InputError naming file, class and field where it is none."""
    missing = "no such file; expected the classes of a data set"
    value = read_json(Path(path), missing=missing, advice="write it again")
    labels = label_set_from_json(value, str(path))
    require_own_name(labels, str(path), "Give these classes a name of their own.")
    return labels


def require_own_name(labels: LabelSet, where: str, advice: str) -> None:
    """InputError for classes that are called as a built-in set of others is."""
    built_in = LABEL_SETS.get(labels.name)
    if built_in is not None:
        require_same_classes(labels, where, built_in, "the built-in set of that name", advice)


def label_set_from_json(value: Any, where: str) -> LabelSet:
    """The label set that `label_set_to_json` gave; InputError naming `where`."""
    expected = 'expected an object with "name", a text, and "classes", a list'
    if not isinstance(value, dict) or any(field not in value for field in FIELDS):
        found = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{where}: found {found or 'nothing'}; {expected}")
    if not isinstance(value["name"], str):
        raise InputError(f"{where}: name is {value['name']!r}; {expected}")
    if unknown := [key for key in value if key not in FIELDS]:
        raise InputError(_unknown(where, unknown, FIELDS))
    if not isinstance(value["classes"], list):
        raise InputError(f"{where}: classes is no list; expected one object a class, in order")
    classes = tuple(_class(one, f"{where}: class {i}") for i, one in enumerate(value["classes"]))
    try:
        return LabelSet(value["name"], classes)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def label_set_to_json(labels: LabelSet) -> dict[str, Any]:
    """The set in JSON's types; what a class does not say is left out."""
    plain = [dataclasses.asdict(one) for one in labels.classes]
    return {
        "name": labels.name,
        "classes": [
            {
                key: list(value) if key == "color" else value
                for key, value in one.items()
                if key == "kind" or value is not None
            }
            for one in plain
        ],
    }


def labels_text(labels: LabelSet) -> str:
    """Content of a labels.json, one class a line."""
    value = label_set_to_json(labels)
    lines = ",\n".join(f"    {json.dumps(one, ensure_ascii=False)}" for one in value["classes"])
    name = json.dumps(value["name"], ensure_ascii=False)
    return f'{{\n  "name": {name},\n  "classes": [\n{lines}\n  ]\n}}\n'


def _class(value: Any, where: str) -> LabelClass:
    """One class; its fields have the types that LabelClass says."""
    if isinstance(value, str):
        raise InputError(f'{where}: found {value!r}; expected an object, such as {{"name": {value!r}}}')
    if not isinstance(value, dict) or "name" not in value:
        raise InputError(f'{where}: found {value!r}; expected an object with at least "name"')
    if not isinstance(value["name"], str):
        raise InputError(f"{where}: name is {value['name']!r}; expected a text")
    where = f"{where} {value['name']!r}"
    unknown = [key for key in value if key not in CLASS_FIELDS]
    if unknown:
        raise InputError(_unknown(where, unknown, CLASS_FIELDS))
    fields = {key: item for key, item in value.items() if item is not None}
    for key in ("kind", "group"):
        if not isinstance(fields.get(key, ""), str):
            raise InputError(f"{where}: {key} is {fields[key]!r}; expected a text")
    if type(fields.get("id", 0)) is not int:
        raise InputError(f"{where}: id is {fields['id']!r}; expected a whole number")
    if "color" in fields:
        fields["color"] = _color(fields["color"], where)
    return LabelClass(**fields)


def _unknown(where: str, unknown: list[str], known: Iterable[str]) -> str:
    known = list(known)
    return (
        f"{where}: unknown {listing(unknown)}{did_you_mean(unknown[0], known)}; known are "
        f"{', '.join(known)}"
    )


def _color(value: Any, where: str) -> tuple[int, int, int]:
    whole = isinstance(value, list) and len(value) == 3 and all(type(item) is int for item in value)
    if not whole:
        raise InputError(f"{where}: colour is {value!r}; expected [red, green, blue], each 0 … 255")
    return value[0], value[1], value[2]
