"""Tables of text with a line of column names (.csv, .tsv)."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import Any

from bifusion.errors import InputError
from bifusion.untrusted.files import read_text

Row = dict[str | Any, Any]
"""Column → text; None → the texts beyond the last column, and None for those that a line lacks."""


def read_rows(path: Path, delimiter: str, advice: str) -> tuple[list[str], list[tuple[int, Row]]]:
    """The columns of the table in `path`, and each row with the number of its line.

    InputError as `files.read_text`, and for a field that is longer than any text in a table.
    """
    text = read_text(path, advice=advice)
    try:
        lines = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        return list(lines.fieldnames or []), [(lines.line_num, row) for row in lines]
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); {advice}") from None
