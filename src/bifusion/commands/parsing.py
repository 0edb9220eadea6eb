"""Arguments of a command from a typed dataclass (tyro), its help, and what a misspelt one meant."""

import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import TypeVar

import tyro

from bifusion.commands.help import (
    Help,
    asked_for,
    paragraph,
    short_help,
    table,
    wants_everything,
    wants_help,
    wants_short_help,
)
from bifusion.commands.options import REQUIRED, Option, list_options
from bifusion.errors import InputError
from bifusion.spelling import did_you_mean

T = TypeVar("T")
OF_TYRO = "tyro-"
"""What its options for shells begin with."""
DASHED = re.compile(r"-([xyz]|[\d.].*)")
"""Text that begins with a dash and is no option: -z, and numbers like -0.1,0,1."""


def parse(kind: type[T], args: Sequence[str], command: str, told: Help) -> T:
    """`args` as a `kind`; prints help, or what tyro finds wrong, and leaves (status 0 or 2).

    Args:
        command: as it is called, such as "train bifusion_small".
        told: what its short help shows.
    Raises:
        InputError: an option that there is not, one argument too many or too few, a value that is no
            number or none of a choice.
    """
    options = list(list_options(kind))
    if wants_everything(args):
        args = ["--help"]
    elif wants_short_help(args):
        summary = (kind.__doc__ or "").partition("\n\n")[0]
        print(short_help(command, " ".join(summary.split()), options, told))
        sys.exit(0)
    else:
        args = _joined_values(args, options)
        _check_names(args, options, command)
        _check_values(args, options, command)
        _check_required(args, options, command)
    made, unknown = tyro.cli(kind, args=args, prog=f"bifusion {command}", return_unknown_args=True)
    if unknown:
        raise InputError(
            f"{command}: found {unknown[0]!r}, one argument too many; see bifusion {command} --help"
        )
    return made


def of_kinds(kinds: dict[str, str], args: Sequence[str], command: str, example: str) -> str:
    """The first argument, one of `kinds` (name -> what it does); help prints these and leaves."""
    if args and args[0] in kinds:
        return args[0]
    if wants_help(args) and args[0].startswith("-"):
        print(_kinds_help(kinds, command, example))
        sys.exit(0)
    found = args[0] if args else ""
    raise InputError(
        f"{command} what? Expected one of {', '.join(kinds)}, found {found or 'nothing'}"
        f"{did_you_mean(found, kinds)}; see bifusion {command} --help"
    )


def _kinds_help(kinds: dict[str, str], command: str, example: str) -> str:
    lines = [
        f"usage: bifusion {command} KIND [options]    (bifusion {command} KIND --help lists them)",
        "kinds:",
        *table(list(kinds.items())),
        *paragraph(f"example: bifusion {example}"),
    ]
    return "\n".join(lines)


def _joined_values(args: Sequence[str], options: Sequence[Option]) -> list[str]:
    """`args` with --up=-z for --up -z: a value that begins with a dash would be taken for an option."""
    by_name = {f"--{option.name}": option for option in options}
    joined: list[str] = []
    for arg in args:
        option = by_name.get(joined[-1].replace("_", "-")) if joined else None
        if option is not None and arg.startswith("-") and _is_value(option, arg):
            joined[-1] += f"={arg}"
        else:
            joined.append(arg)
    return joined


def _is_value(option: Option, arg: str) -> bool:
    """Whether what begins with a dash is meant as the option's value: an axis, numbers, a choice."""
    return arg in option.choices or (option.hint is str and DASHED.fullmatch(arg) is not None)


def _check_values(args: Sequence[str], options: Sequence[Option], command: str) -> None:
    """InputError for a value that is no number, or none of a choice, and for a list with one; tyro looks
    at the others."""
    by_name = {f"--{option.name}": option for option in options}
    for place, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        option = by_name.get(name.replace("_", "-"))
        if option is None:
            continue
        following = [value] if equals else _up_to_an_option(args[place + 1 :])
        for given in following if option.numbers else following[:1] or [""]:
            if given == "None" or not (expected := _expected(option, given)):
                continue
            found = repr(given) if given else "nothing"
            raise InputError(
                f"{command}: {name}: found {found}, expected {expected}"
                f"{did_you_mean(given, option.choices)}"
            )


def _check_required(args: Sequence[str], options: Sequence[Option], command: str) -> None:
    """InputError for arguments and options that must be given and are not. Tyro tells of an option that
    lacks its value, the command of a list that may not be empty."""
    by_flag = {flag: option for option in options for flag in option.flags}
    named, placed, rest = set(), 0, list(args)
    while rest:
        name, equals, _ = rest.pop(0).partition("=")
        option = by_flag.get(name.replace("_", "-"))
        if name.startswith(f"--{OF_TYRO}"):
            return
        if option is not None and option.positional and name.startswith("--"):
            places = " ".join(one.name.upper() for one in options if one.positional)
            raise InputError(
                f"{command}: {name} is no option: it is given by its place, bifusion {command} {places}"
            )
        if option is None or option.positional:
            placed += 1
            continue
        named.add(option.name)
        values = 0 if equals else option.values
        if values == 1 and (not rest or rest[0].startswith("-")):
            return
        del rest[: len(_up_to_an_option(rest)) if values is None else values]
    places = [option for option in options if option.positional][placed:]
    wanted = [*places, *(one for one in options if not (one.positional or one.name in named))]
    if missing := [one for one in wanted if one.default is REQUIRED and one.values is not None]:
        raise InputError(f"{command}: missing {asked_for(missing)}\nsee bifusion {command} --help")


def _up_to_an_option(args: Sequence[str]) -> list[str]:
    return list(takewhile(lambda arg: not arg.startswith("--"), args))


def _expected(option: Option, value: str) -> str | None:
    """What the value should be; None where it is."""
    if option.choices:
        return None if value in option.choices else f"one of {', '.join(option.choices)}"
    kind = option.numbers or option.hint
    if kind not in (int, float):
        return None
    try:
        kind(value)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        words = [word for word in value.split(",") if word]
        if option.numbers and len(words) > 1:
            return f"{expected} each, with blanks between them: --{option.name} {' '.join(words)}"
        return expected
    return None


def _check_names(args: Sequence[str], options: Sequence[Option], command: str) -> None:
    """InputError for an option that there is not, with the one that may have been meant."""
    known = {flag.removeprefix("--") for option in options for flag in option.flags}
    for arg in args:
        name = arg.partition("=")[0].removeprefix("--").replace("_", "-")
        if not arg.startswith("--") or name in known or name.startswith(OF_TYRO):
            continue
        meant = did_you_mean(name, known).replace("'", "'--", 1)
        raise InputError(
            f"{command}: option --{name} is unknown{meant}; bifusion {command} --help-all lists all "
            "options"
        )
