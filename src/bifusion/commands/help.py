"""Help that fits a screen: what people use, made from the fields; `--help-all` has everything (tyro)."""

import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from bifusion.commands.options import REQUIRED, Option

WIDTH = 100
INDENT = 2
LONG_METAVAR = 24
"""Longer lists of choices stand in the text."""
LEFT = 34
"""Widest column of names; a longer one has its text on the next line."""


@dataclass(frozen=True)
class Help:
    """What a command says of itself, beside it."""

    example: str
    """A call that works, without the name of the program."""
    common: tuple[str, ...] = ()
    """Names of the options that people use ("trainer.epochs"), in the order to show them; none: all."""


def wants_help(args: Sequence[str]) -> bool:
    """Whether help is asked for, of either length."""
    return wants_short_help(args) or wants_everything(args)


def wants_short_help(args: Sequence[str]) -> bool:
    return "--help" in args or "-h" in args


def wants_everything(args: Sequence[str]) -> bool:
    return "--help-all" in args


def help_last(args: Sequence[str]) -> list[str]:
    """`args` with what asks for help behind what it is asked of: `train -h RECIPE`."""
    asking = list(takewhile(lambda arg: wants_help([arg]), args))
    return [*args[len(asking) :], *asking]


def asked_for(options: Sequence[Option]) -> str:
    """Names of options and arguments as help has them, and below each what it means."""
    rows = [(_place(o) if o.positional else _typed(o), first_sentence(o.text)) for o in options]
    return "\n".join([", ".join(name for name, _ in rows), *table(rows)])


def short_help(
    command: str,
    summary: str,
    options: Sequence[Option],
    told: Help,
    *,
    before: Iterable[str] = (),
    defaults: bool = True,
) -> str:
    """The page of one command.

    Args:
        command: as it is called, such as "train RECIPE".
        summary: what it does, one line.
        options: all that it has.
        before: lines between the summary and the options.
        defaults: whether they are the same in every call, and worth showing.
    """
    by_name = {option.name: option for option in options}
    shown = [by_name[name] for name in told.common] if told.common else list(options)
    places = [option for option in shown if option.positional]
    shown = [option for option in shown if not option.positional]
    names = " ".join(_place(option) for option in places)
    hidden = len([option for option in options if not option.positional]) - len(shown)
    title = f"options ({hidden} more: --help-all)" if hidden > 0 else "options"
    rows = [(_typed(option), _meaning(option, defaults)) for option in shown]
    usage = " ".join(filter(None, ["usage: bifusion", command, names, "[options]" if rows else ""]))
    lines = [
        *paragraph(usage),
        *paragraph(summary),
        *before,
        *table([(_place(option), _meaning(option, defaults)) for option in places]),
        *([f"{title}:"] if rows else []),
        *table(rows),
        *paragraph(f"example: bifusion {told.example}"),
    ]
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Names and what they mean, in two columns."""
    left = min(LEFT, max((len(name) for name, _ in rows), default=0))
    lines = []
    for name, text in rows:
        beside = " " * (INDENT + left + 2)
        wrapped = textwrap.wrap(text, width() - len(beside)) or [""]
        if len(name) > left:
            lines += [" " * INDENT + name, beside + wrapped[0]]
        else:
            lines.append(f"{' ' * INDENT}{name:{left}}  {wrapped[0]}".rstrip())
        lines += [beside + line for line in wrapped[1:]]
    return lines


def paragraph(text: str) -> list[str]:
    """Text in lines that fit."""
    return textwrap.wrap(text, width(), subsequent_indent=" " * INDENT, break_on_hyphens=False)


def width() -> int:
    """Columns of the terminal, 100 at most."""
    return max(60, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def summary_of(command: Callable[..., Any]) -> str:
    """What a command does: the first line of its docstring."""
    return (command.__doc__ or "").partition("\n")[0]


def first_sentence(text: str) -> str:
    """What a text says first, without its full stop."""
    return re.split(r"(?<=\w\w)[.;](?:\s|$)|(?<=[)\]\d])[.;](?:\s|$)", text, maxsplit=1)[0].strip()


def _typed(option: Option) -> str:
    if option.default is True:
        return ", ".join(option.flags)
    long = len(option.metavar) > LONG_METAVAR
    return f"--{option.name} {'CHOICE' if long else option.metavar}".rstrip()


def _place(option: Option) -> str:
    name = option.name.upper().replace("-", "_")
    if "..." in option.metavar:
        return f"[{name} ...]" if option.default is not REQUIRED else f"{name} ..."
    return f"[{name}]" if option.default is not REQUIRED else name


def _meaning(option: Option, defaults: bool) -> str:
    text = first_sentence(option.text)
    if len(option.metavar) > LONG_METAVAR:
        text += f": {', '.join(option.choices)}"
    if option.default is REQUIRED:
        return text if option.positional else f"{text} (required)"
    silent = option.default is None or option.default is False or option.default in ((), [], "")
    return text if silent or not defaults else f"{text} [{_default(option)}]"


def _default(option: Option) -> str:
    """With what it stands for, where the text says so after its first sentence ("…; 0: all")."""
    if option.default is True:
        return option.flags[0]
    value = option.default
    shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    stands_for = re.search(rf"; {re.escape(shown)}: ([^.;]+)", option.text)
    return f"{shown}: {stands_for[1]}" if stands_for else shown
