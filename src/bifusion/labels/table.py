"""A label set from a table of classes: a .csv (commas) or .tsv (tabs) with a line of column names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bifusion.errors import InputError
from bifusion.labels.files import label_set_from_json
from bifusion.labels.label_set import LabelSet
from bifusion.spelling import did_you_mean
from bifusion.untrusted.names import brief
from bifusion.untrusted.tables import read_rows

COLUMNS = ("name", "kind", "color", "id", "group")
"""Of a class, as in labels.json; `name` is needed, the others may be missing or empty."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
"""Of lines of column names that were read as one name."""


def read_table(path: Path, name: str) -> tuple[LabelSet, list[str]]:
    """The label set called `name` of the table in `path`, one class a line in its order, and the
    columns that are none of `COLUMNS`, which say nothing.

    A colour is #rrggbb or three numbers 0 … 255. Raises InputError naming file, line and column.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    columns, rows = read_rows(path, delimiter, "expected .csv or .tsv")
    rows = [(line, row) for line, row in rows if any(row.values())]  # spreadsheets leave lines of commas
    separated = "separated by commas (.csv) or tabs (.tsv)"
    if len(columns) == 1 and (others := [sign for sign in SEPARATORS if sign in columns[0]]):
        found = SEPARATORS[others[0]]
        raise InputError(f"{path}: columns are separated by {found}; expected them {separated}")
    if "name" not in columns:
        found = ", ".join(columns) or "none"
        raise InputError(
            f"{path}: has the columns {found}; expected name and, if wanted, {', '.join(COLUMNS[1:])}, "
            f"{separated}"
        )
    _refuse_near_misses(columns, path)
    classes = [_class(row, f"{path}, line {line}") for line, row in rows]
    labels = label_set_from_json({"name": name, "classes": classes}, str(path))
    return labels, [column for column in columns if column not in COLUMNS]


def _refuse_near_misses(columns: list[str], path: Path) -> None:
    """InputError for a column whose name is nearly one of ours, or there twice: it would say nothing,
    and every class would be a thing without a word."""
    for column in columns:
        lacking = [name for name in COLUMNS if name not in columns]
        meant = did_you_mean(column.strip().lower(), lacking) if column not in COLUMNS else ""
        exact = column.strip().lower() in lacking
        if exact or meant:
            told = f" (did you mean {column.strip().lower()!r}?)" if exact else meant
            raise InputError(
                f"{path}: column {column!r} is unknown{told}; known are {', '.join(COLUMNS)}"
            )
        if column in COLUMNS and columns.count(column) > 1:
            raise InputError(f"{path}: has several columns {column!r}; expected one")


def _class(row: dict[str | Any, Any], where: str) -> dict[str, Any]:
    """A line as labels.json has it; empty fields are left out."""
    if None in row or None in row.values():
        fields = sum(value is not None for key, value in row.items() if key is not None)
        columns = sum(key is not None for key in row)
        raise InputError(
            f"{where}: has {fields + len(row.get(None, ()))} fields, the line of column names has "
            f"{columns}; expected as many (a name with a comma in it stands in quotes)"
        )
    told = {key: row[key].strip() for key in COLUMNS if row.get(key, "").strip()}
    if "name" not in told:
        raise InputError(f"{where}: the name is empty; expected one")
    value: dict[str, Any] = dict(told)
    if "id" in told:
        if not re.fullmatch(r"-?\d{1,18}", told["id"]):
            raise InputError(
                f"{where} {told['name']!r}: id is {brief(told['id'])}; expected a whole number"
            )
        value["id"] = int(told["id"])
    if "color" in told:
        value["color"] = _color(told["color"], f"{where} {told['name']!r}")
    return value


def _color(text: str, where: str) -> list[int]:
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return [int(text[at : at + 2], 16) for at in (1, 3, 5)]
    numbers = re.findall(r"\d+", text)
    if len(numbers) != 3 or max(map(len, numbers)) > 9 or re.search(r"[^\d\s,;()\[\]]", text):
        raise InputError(f"{where}: colour is {brief(text)}; expected #rrggbb, or three numbers 0 … 255")
    return [int(number) for number in numbers]
