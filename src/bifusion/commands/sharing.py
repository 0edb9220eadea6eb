"""The command that shares a run.

A command imports what it needs once its options are read: torch takes seconds, no help should.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from bifusion.commands import parsing
from bifusion.commands.help import Help


@dataclass
class Push:
    """Share a run's last checkpoint on the Hugging Face hub, with a card made of what it measured."""

    run: tyro.conf.Positional[Path]
    """Run folder that was trained to its end, or an imported one."""
    name: tyro.conf.Positional[str]
    """user/name; `bifusion predict hf://user/name room.ply` and `bifusion.load` take it then."""
    licence: str
    """Of the weights, as the hub spells it: apache-2.0, cc-by-nc-4.0, other; data may restrict it."""
    private: bool = False
    """Only its owner sees it."""


def push(args: list[str]) -> int:
    """Share a run on the Hugging Face hub: weights, figures, verdicts, a card."""
    told = Help("push runs/mine ada/workshop --licence cc-by-nc-4.0")
    wanted = parsing.parse(Push, args, "push", told)

    from bifusion.official.hub import push as push_run

    print(push_run(wanted.run, wanted.name, licence=wanted.licence, private=wanted.private))
    return 0
