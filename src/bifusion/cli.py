"""The command line: one function a command, arguments from typed dataclasses.

Bad input (InputError) is printed without a traceback, exit status 2; a comparison in which a run
crashed leaves with status 1 after the others are done; a run that its guard stopped, a result, with
4; Ctrl-C with 130, everything saved.
"""

import atexit
import signal
import sys
from collections.abc import Callable

from bifusion.commands import comparisons, labels, replay, runs, scenes, viewing
from bifusion.training.signals import terminated_as_interrupted
from bifusion.types import InputError

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": comparisons.demo,
    "prepare": scenes.prepare,
    "labels": labels.labels,
    "info": runs.info,
    "train": runs.train,
    "evaluate": runs.evaluate,
    "predict": runs.predict,
    "view": viewing.view,
    "export-submission": runs.export_submission,
    "compare": comparisons.compare,
    "dose": comparisons.dose,
    "pretrain-tower": comparisons.pretrain_tower,
    "import-checkpoint": runs.import_checkpoint,
    "replay": replay.replay,
}


def _help() -> str:
    lines = ["bifusion COMMAND [options]    (bifusion COMMAND --help lists the options)", ""]
    lines += [
        f"  {name:17} {(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the `bifusion` command."""
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C changes nothing
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if args else 2)
    try:
        if args[0] not in COMMANDS:
            raise InputError(f"command {args[0]!r} is unknown; known are {', '.join(COMMANDS)}")
        with terminated_as_interrupted():
            status = COMMANDS[args[0]](args[1:])
        sys.exit(status)
    except InputError as error:
        print(f"bifusion: {error}", file=sys.stderr)
        sys.exit(2)
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        print(f"bifusion: {error.filename}: {error.strerror}; name another path", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("bifusion: interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
