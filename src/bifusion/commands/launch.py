"""The command that prints the batch file with which a cluster trains a run on several machines."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import tyro

from bifusion.commands import parsing
from bifusion.commands.help import Help, wants_help
from bifusion.errors import InputError

if TYPE_CHECKING:
    from bifusion.config.run import Config

HELP = Help("launch --slurm bifusion_scannet200 --data.root data/scannet --nodes 2 --devices 4")
OWN = ("--trainer.devices", "--trainer.nodes")
"""Options of `train` that the command gives itself."""


@dataclass
class Launch:
    """Print the sbatch file of a training; all options of `train` may be given besides."""

    recipe: tyro.conf.Positional[str]
    """As `bifusion train` takes it."""
    slurm: bool = False
    """For SLURM, the one scheduler that is known: `bifusion launch --slurm … > run.sbatch`."""
    nodes: int = 1
    """Machines."""
    devices: int = 1
    """Processes on each, with a GPU each."""
    time: str = "24:00:00"
    """Longest time of one start; the job goes on in the next."""
    warning: int = 180
    """Seconds before its end at which a run is told to save."""
    partition: str | None = None
    """Of the cluster; left out: its default."""


def launch(args: list[str]) -> int:
    """Print the sbatch file of a training on several machines."""
    own, others = _divided(args)
    wanted = parsing.parse(Launch, own, "launch", HELP)
    if not wanted.slurm:
        raise InputError(
            "launch: on what? Expected --slurm; on one machine `bifusion train … --trainer.devices N` "
            "starts the processes itself"
        )
    for name in ("nodes", "devices", "warning"):
        if getattr(wanted, name) < 1:
            raise InputError(f"{name}: found {getattr(wanted, name)}; expected 1 or more")
    print(sbatch_file(wanted, _checked(wanted.recipe, others), others), end="")
    return 0


def sbatch_file(wanted: Launch, config: "Config", options: Sequence[str]) -> str:
    """The batch file: one task a GPU, a warning before the time is up, back into the queue after it."""
    gpus = () if config.trainer.accelerator == "cpu" else (f"--gpus-per-node={wanted.devices}",)
    partition = () if wanted.partition is None else (f"--partition={wanted.partition}",)
    settings = (
        f"--job-name={config.name}",
        *partition,
        f"--nodes={wanted.nodes}",
        f"--ntasks-per-node={wanted.devices}",
        *gpus,
        f"--cpus-per-task={config.trainer.workers + 1}",
        f"--time={wanted.time}",
        f"--signal=USR1@{wanted.warning}",
        "--requeue",
        "--open-mode=append",
        f"--output={config.name}-%j.txt",
    )
    command = [
        sys.executable, "-m", "bifusion", "train", wanted.recipe, *options,
        "--trainer.devices", str(wanted.devices), *_of_nodes(wanted.nodes), "--resume",
    ]  # fmt: skip
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {shlex.quote(setting)}" for setting in settings),
        "",
        "# At the warning the run is saved and the job queued again; each start goes on where the last",
        "# one ended. A task that fails ends the others, which say why.",
        f"srun --kill-on-bad-exit=1 {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def _of_nodes(nodes: int) -> list[str]:
    return ["--trainer.nodes", str(nodes)] if nodes > 1 else []


def _divided(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own arguments, and the options that are `train`'s."""
    has_value = {f"--{field.name}": field.type is not bool for field in fields(Launch)[1:]}
    own: list[str] = []
    others: list[str] = []
    recipe, left = False, list(args)
    while left:
        arg = left.pop(0)
        name, equals, _ = arg.partition("=")
        is_recipe = not recipe and not arg.startswith("-")
        if is_recipe or name in has_value or wants_help([name]):
            recipe |= is_recipe
            own.append(arg)
            if has_value.get(name) and not equals:
                own += left[:1]
                left = left[1:]
        else:
            others.append(arg)
            if not recipe and not equals:
                raise InputError(f"launch: found {arg} before the recipe; expected RECIPE first")
    return own, others


def _checked(recipe: str, options: Sequence[str]) -> "Config":
    """The configuration that `train` would make of them. InputError as `train`'s."""
    from bifusion.commands.train import parsed

    given = [arg for arg in options if arg.partition("=")[0] in (*OWN, "--resume")]
    if given:
        raise InputError(f"launch: {given[0]} is given by --nodes, --devices and the file itself")
    return parsed([recipe, *options]).config
