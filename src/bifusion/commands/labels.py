"""The command that shows and makes label sets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bifusion.commands import parsing
from bifusion.commands.help import Help
from bifusion.errors import InputError
from bifusion.untrusted.names import shown
from bifusion.untrusted.screen import Screen


@dataclass
class Labels:
    """List the built-in label sets, print one as labels.json, or make one from a table of classes."""

    name: tyro.conf.Positional[str | None] = None
    """Built-in set to print, or, with --from, the new set's name (left out: the table's file name)."""
    from_table: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Table of classes in their order, .csv or .tsv, with the columns name and, if wanted, kind (stuff
    or thing), color (#rrggbb), id, group."""
    out: Path | None = None
    """labels.json to write, in a data set's root; left out: it is printed."""


def labels(args: list[str]) -> int:
    """List built-in label sets, print one, or make one from a table."""
    told = Help("labels --from classes.csv --out data/mine/labels.json")
    wanted = parsing.parse(Labels, args, "labels", told)

    from bifusion.labels.files import labels_text, require_own_name
    from bifusion.labels.sets import get_label_set
    from bifusion.labels.table import read_table

    if wanted.from_table is not None:
        made, unused = read_table(wanted.from_table, wanted.name or wanted.from_table.stem)
        advice = "Give these classes a name of their own: bifusion labels NAME --from …"
        require_own_name(made, str(wanted.from_table), advice)
        if unused:
            Screen(stderr=True).print(f"columns not used: {', '.join(unused)}", markup=False)
        if not made.stuff_classes:
            all_things = (
                f"all {len(made.classes)} classes are things: a column kind says which are stuff"
            )
            Screen(stderr=True).print(f"{all_things}, as walls and floors are", soft_wrap=True)
    elif wanted.name is not None:
        made = get_label_set(wanted.name)
    elif wanted.out is not None:
        raise InputError(
            f"--out {wanted.out}: write which set? Name a built-in one, or a table (--from)"
        )
    else:
        _list_built_in()
        return 0
    if wanted.out is None:
        print(labels_text(made), end="")
        return 0
    _write(wanted.out, labels_text(made))
    print(shown(f"{wanted.out}: {made.describe()}"))
    return 0


def _write(path: Path, text: str) -> None:
    from bifusion.labels.files import LABELS_FILE
    from bifusion.storage.files import write_text

    if path.is_dir():
        raise InputError(
            f"{path}: is a folder; expected the file to write, such as {path / LABELS_FILE}"
        )
    if path.exists() and not (path.is_file() and path.read_bytes() == text.encode()):
        raise InputError(f"{path} is there already and says something else; remove it, or name another")
    write_text(path, text)


def _list_built_in() -> None:
    from bifusion.labels.sets import BUILT_IN

    for one in BUILT_IN:
        print(one.labels.describe())
        for what in ("source", "stuff", "licence"):
            print(f"    {what:8} {getattr(one, what)}")
