"""The command that takes a recorded training step again."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from bifusion.commands import parsing
from bifusion.commands.help import Help
from bifusion.untrusted.screen import Screen


@dataclass
class Replay:
    """Take the step of a replay bundle again on the CPU, and compare it to the bit."""

    file: tyro.conf.Positional[Path]
    """RUN/bundles/step-N.safetensors. Nothing in it is executed; the data set is not needed."""
    trace: bool = False
    """Show the range of every module's output, and where non-finite numbers came from."""


def replay(args: list[str]) -> int:
    """Take a recorded step of a run again: is it identical to the bit?

    Exit status 0 if it is, 1 if not.
    """
    told = Help("replay runs/NAME/bundles/step-00000123.safetensors --trace")
    wanted = parsing.parse(Replay, args, "replay", told)

    from bifusion.diagnosis.replay import print_report
    from bifusion.diagnosis.replay import replay as run_replay

    report = run_replay(wanted.file, trace=wanted.trace)
    print_report(report, Screen())
    return 0 if report.identical else 1
