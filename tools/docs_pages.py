"""Pages of the documentation that are made of the code: configuration fields, commands.

A hook of mkdocs (mkdocs.yml): it adds them when the site is built, so that they cannot fall behind, and
files from outside docs/ with them. Links lead where GitHub has a file; the hook turns them to pages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from bifusion import cli
from bifusion.bounds import AtMost, Bound, MultipleOf
from bifusion.changes import MAY_CHANGE
from bifusion.commands.help import summary_of
from bifusion.commands.options import field_texts
from bifusion.config.run import MODEL_KINDS, Config
from bifusion.models.model import ModelConfig, ResultsConfig
from bifusion.recipes import RECIPES

ROOT = Path(__file__).parents[1]
INCLUDED = {
    "RECIPES.md": "reference/recipes.md",
    "CONVENTIONS.md": "reference/conventions.md",
    "CONTRIBUTING.md": "reference/contributing.md",
    "CHANGELOG.md": "reference/changelog.md",
}
"""Files outside docs/ that are pages of the site."""
ON_SITE = {
    **INCLUDED,
    "src/bifusion/config": "reference/configuration.md",
    "src/bifusion/config/guard.py": "reference/configuration.md#GuardConfig",
    "src/bifusion/config/rules.py": "reference/configuration.md#RulesConfig",
}
"""What a link leads to on GitHub, by its path from the project's root → where the site has it."""
RESULTS = tuple(kind.results_config for kind in MODEL_KINDS.values())
STANDS_FOR = {ModelConfig: tuple(MODEL_KINDS.values()), ResultsConfig: tuple(dict.fromkeys(RESULTS))}
"""A field of a general type holds one of these."""
WIDTH = "92"
"""Columns of a command's help."""


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs when it has listed what lies in docs/."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page: a mean and its deviation stay on one line, links lead to pages."""
    return re.sub(r"(\d) ± (\d)", "\\1\u00a0±\u00a0\\2", linked(markdown, page.file.src_uri))


def linked(markdown: str, name: str) -> str:
    """The text of the page `name` (its path within docs/), its links turned to pages of the site."""
    files = {place: path for path, place in INCLUDED.items()}
    folder = posixpath.dirname(files.get(name, f"docs/{name}"))

    def turned(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link["path"]))
        if path not in ON_SITE and not path.startswith("docs/"):
            return link[0]
        place, _, part = ON_SITE.get(path, path.removeprefix("docs/")).partition("#")
        anchor = link["anchor"] or (f"#{part}" if part else "")
        return f"]({posixpath.relpath(place, posixpath.dirname(name) or '.')}{anchor})"

    return re.sub(r"\]\((?P<path>[^\s()#:]+)(?P<anchor>#[^\s()]+)?\)", turned, markdown)


def pages() -> dict[str, str]:
    """Path within docs/ → Markdown."""
    return {
        "reference/configuration.md": configuration_page(),
        "reference/commands.md": commands_page(),
        **{place: (ROOT / path).read_text(encoding="utf-8") for path, place in INCLUDED.items()},
    }


def configuration_page() -> str:
    """Every field of every dataclass that a run's configuration can hold."""
    parts = [
        "# Configuration\n",
        "Everything a run depends on, as `bifusion train RECIPE --print-config` prints it and "
        "`config.json` keeps it. A field is an option of `bifusion train` under its dotted name "
        "(`--optim.lr 5e-5`) and an attribute in Python (`config.optim.lr = 5e-5`). After its type "
        "stand its bounds and the default of the class; a recipe sets others. What is out of its bounds "
        "is refused by name, before anything is trained. *Free*: may change when a run is resumed.\n",
    ]
    parts += [_class_section(kind, path) for kind, path in classes().items()]
    return "\n".join(parts)


def classes() -> dict[type, str]:
    """Every dataclass of a configuration → where it stands in it, `Config` first."""
    found: dict[type, str] = {}
    waiting: list[tuple[type, str]] = [(Config, "")]
    while waiting:
        kind, path = waiting.pop(0)
        if kind in found:
            continue
        found[kind] = path
        hints = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            where = f"{path}.{field.name}" if path else field.name
            waiting += [(part, where) for part in _dataclasses_in(hints[field.name])]
    for recipe in RECIPES.values():  # what stands where a type is general
        for kind, path in _kinds_of(recipe(), ""):
            found.setdefault(kind, path)
    return found


def _kinds_of(value: Any, path: str) -> Iterator[tuple[type, str]]:
    if dataclasses.is_dataclass(value):
        yield type(value), path
        for field in dataclasses.fields(value):
            where = f"{path}.{field.name}" if path else field.name
            yield from _kinds_of(getattr(value, field.name), where)
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _kinds_of(item, path)


def _dataclasses_in(hint: Any) -> Iterator[type]:
    for kind in STANDS_FOR.get(hint, (hint,)):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield kind
    hint = _plain(hint)
    if hint not in STANDS_FOR:
        for argument in get_args(hint):
            yield from _dataclasses_in(argument)


def _class_section(kind: type, path: str) -> str:
    texts = field_texts(kind)
    hints = get_type_hints(kind, include_extras=True)
    place = f"`{path}`: " if path else ""
    title = f"## {place}{kind.__name__} {{ #{kind.__name__} }}\n"
    rows = ["| field | value | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(kind):
        if field.init:
            marks = _marks(hints[field.name])
            cells = (
                f"`{field.name}`",
                f"{_linked(hints[field.name])}{_bounds(marks)}{_default(field)}",
                texts.get(field.name, "") + (" *Free.*" if MAY_CHANGE in marks else ""),
            )
            rows.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join([title, _paragraphs(kind.__doc__), "", *rows, ""])


def _paragraphs(doc: str | None) -> str:
    lines = [line.strip() for line in (doc or "").splitlines()]
    return "\n".join(lines)


def _linked(hint: Any) -> str:
    """A type in words; a dataclass leads to its section."""
    kinds = list(dict.fromkeys(_dataclasses_in(hint)))
    if kinds:
        links = " or ".join(f"[{kind.__name__}](#{kind.__name__})" for kind in kinds)
        return f"name → {links}" if get_origin(_plain(hint)) is dict else links
    return _words(hint)


def _words(hint: Any) -> str:
    hint = _plain(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin in (Union, UnionType):
        return " or ".join("none" if arg is NoneType else _words(arg) for arg in args)
    if origin is dict:
        return f"{_words(args[0])} → {_words(args[1])}"
    if origin in (list, tuple):
        several = origin is list or Ellipsis in args
        return f"{_words(args[0])} …" if several else ", ".join(map(_words, args))
    return getattr(hint, "__name__", str(hint))


def _bounds(marks: tuple[Any, ...]) -> str:
    said = [mark.expected for mark in marks if isinstance(mark, Bound)]
    related = (mark for mark in marks if isinstance(mark, MultipleOf | AtMost))
    said += [mark.expected(f"`{mark.field}`") for mark in related]
    return f"; {', '.join(said)}" if said else ""


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return " (required)"
    if dataclasses.is_dataclass(value):
        return ""
    if value is None or (isinstance(value, Mapping | tuple | list | str) and len(value) == 0):
        return " = none"
    return f" = `{value}`"


def _plain(hint: Any) -> Any:
    return _plain(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def _marks(hint: Any) -> tuple[Any, ...]:
    """What is annotated, also to one of a union's types."""
    own = hint.__metadata__ if get_origin(hint) is Annotated else ()
    inner = get_args(hint)[:1] if own else get_args(hint)
    return (*own, *(mark for part in inner if _is_union_part(hint) for mark in _marks(part)))


def _is_union_part(hint: Any) -> bool:
    return get_origin(hint) in (Annotated, Union, UnionType)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def commands_page() -> str:
    """The help of every command, as the terminal shows it."""
    parts = [
        "# Commands\n",
        "What `bifusion COMMAND --help` prints: the options that people use. `--help-all` lists every "
        "one. Exit status: 0 done, 1 some of several could not be done, 2 bad input (one line says "
        "what), 4 the guard stopped the run, 5 another process of the run failed, 130 interrupted and "
        "saved, 141 nobody reads its output on.\n",
    ]
    for title, commands in cli.GROUPS.items():
        parts.append(f"## {title.capitalize()}\n")
        for name, command in commands.items():
            parts.append(f"### bifusion {name}\n\n{summary_of(command)}\n\n{_help_block(name)}")
            if name == "prepare":
                kinds = re.findall(r"^  ([a-z]+)  ", help_of(name), flags=re.M)
                parts += [_help_block(name, kind) for kind in kinds]
    return "\n".join(parts)


def _help_block(*words: str) -> str:
    return f"```text\n{help_of(*words)}\n```\n"


def help_of(*words: str) -> str:
    """What the command prints when asked for help."""
    printed = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.COMMANDS[words[0]]([*words[1:], "--help"])
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return printed.getvalue().rstrip().replace(str(Path.cwd()), ".")
