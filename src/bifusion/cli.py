"""The command line: one function a command, arguments from typed dataclasses.

Bad input (InputError) is printed without a traceback, exit status 2; a comparison in which a run
crashed, and a preparation of which an input is bad, leave with status 1 after the others are done;
a run that its guard stopped, a result, with 4; one of several processes that ends because of another one
with 5; Ctrl-C with 130, SIGTERM with 143, everything saved; a command
whose output nobody reads on (`| head`) with 141.
"""

import atexit
import errno
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from bifusion.commands import (
    check,
    comparisons,
    find,
    labels,
    launch,
    replay,
    runs,
    scan,
    scenes,
    sharing,
    train,
    viewing,
)
from bifusion.commands.help import help_last, summary_of, table, wants_help
from bifusion.commands.telling import GOES_ON
from bifusion.errors import InputError, SomeFailedError
from bifusion.spelling import did_you_mean
from bifusion.training.signals import exit_status, terminated_as_interrupted
from bifusion.untrusted.names import shown
from bifusion.untrusted.screen import UNREAD_EXIT

PATH_ERRORS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
"""What is wrong with the path alone, so that another one helps."""

Command = Callable[[list[str]], int]
GROUPS: dict[str, dict[str, Command]] = {
    "data": {"prepare": scenes.prepare, "labels": labels.labels, "check": check.check},
    "one model": {
        "info": runs.info,
        "train": train.train,
        "launch": launch.launch,
        "evaluate": runs.evaluate,
        "predict": runs.predict,
        "scan": scan.scan,
        "find": find.find,
        "view": viewing.view,
        "export-submission": runs.export_submission,
        "import-checkpoint": runs.import_checkpoint,
        "push": sharing.push,
        "replay": replay.replay,
    },
    "several models": {
        "demo": comparisons.demo,
        "compare": comparisons.compare,
        "dose": comparisons.dose,
        "pretrain-tower": comparisons.pretrain_tower,
    },
}
COMMANDS: dict[str, Command] = {
    name: command for group in GROUPS.values() for name, command in group.items()
}
GOING_ON = ("demo", "compare", "dose")
"""Commands that, called again, go on where they were interrupted; `train` wants --resume, and of others
it depends on what they are at: those say it themselves (`commands/telling.py`)."""


_format_plain_warning = warnings.formatwarning


def _format_warning(*args: Any, **options: Any) -> str:
    """As Python has it, names in it escaped."""
    return shown(_format_plain_warning(*args, **options))


def _help() -> str:
    lines = ["usage: bifusion COMMAND [options]    (bifusion COMMAND --help: what it takes)"]
    for title, commands in GROUPS.items():
        rows = [(f"{name:17}", summary_of(command)) for name, command in commands.items()]
        lines += [f"{title}:", *table(rows)]
    return "\n".join([*lines, "example: bifusion demo"])


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `bifusion` command; leaves with its exit status.

    Args:
        argv: the arguments; None: those of the process.
    """
    warnings.formatwarning = _format_warning
    try:
        try:
            _call(list(sys.argv[1:] if argv is None else argv))
        finally:
            for stream in _streams():  # not left to Python's end, which complains
                _flush(stream)
    except BrokenPipeError:
        unread = [stream for stream in _streams() if _is_unread(stream)]
        if not unread:
            raise  # of another pipe
        for stream in unread:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(UNREAD_EXIT)


def _streams() -> list[Any]:
    """Standard output and error, those that are open."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _flush(stream: Any) -> None:
    """BrokenPipeError where its reader has gone; of what else is wrong Python tells as it ends."""
    try:
        stream.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError):
        pass


def _is_unread(stream: Any) -> bool:
    """Whether the stream's reader has gone."""
    try:
        _flush(stream)
        poll = select.poll()  # where nothing is kept to be written, flushing tells nothing
        poll.register(stream.fileno(), 0)
        return any(told & select.POLLERR for _, told in poll.poll(0))
    except BrokenPipeError:
        return True
    except (AttributeError, OSError, ValueError):  # Windows has no poll; a stream without a file
        return False


def _call(args: list[str]) -> None:
    """Calls a command and leaves with its exit status."""
    args = [*args[1:], "--help"] if args[:1] == ["help"] else args
    args = [*args[:1], *help_last(args[1:])]
    if not args:
        print(_help(), file=sys.stderr)
        sys.exit(2)
    if args[0] in ("--version", "-V"):
        print(f"bifusion {version('bifusion')}")
        sys.exit(0)
    if args[0].startswith("-") and wants_help(args):
        print(_help())
        sys.exit(0)
    try:
        if args[0] not in COMMANDS:
            raise InputError(
                f"command {args[0]!r} is unknown{did_you_mean(args[0], COMMANDS)}; known are "
                f"{', '.join(COMMANDS)}"
            )
        with terminated_as_interrupted():
            try:
                status = COMMANDS[args[0]](args[1:])
            finally:
                # a second Ctrl-C changes nothing; registered last, this runs before all other farewells
                atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        sys.exit(status)
    except InputError as error:
        print(shown(f"bifusion: {error}"), file=sys.stderr)
        sys.exit(1 if isinstance(error, SomeFailedError) else 2)
    except OSError as error:
        if error.errno not in PATH_ERRORS or error.filename is None:
            raise
        print(shown(f"bifusion: {error.filename}: {error.strerror}; name another path"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # one more ends it at once, without a traceback
        more = [GOES_ON] if args[0] in GOING_ON else getattr(error, "__notes__", [])
        print("; ".join(["bifusion: interrupted", *more]), file=sys.stderr)
        sys.exit(exit_status(error))


if __name__ == "__main__":
    main()
