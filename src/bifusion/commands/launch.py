"""The command that prints the batch file with which a cluster trains a run on several machines."""

import re
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
PASSED_ON = ("partition", "account", "qos", "constraint", "mem")
"""Options that the file hands on to SLURM as they are."""
MOST_WARNING = 65536
"""Seconds, as `sbatch --signal` has it."""


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
    """Longest time of one start, minutes, h:m:s or days-h:m:s; the job goes on in the next."""
    warning: int = 180
    """Seconds before its end at which a run is told to save."""
    partition: str | None = None
    """Of the cluster; left out, as the next ones: its default."""
    account: str | None = None
    """That the time is charged to."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that machines must have."""
    mem: str | None = None
    """Memory of each machine: 64G."""


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
    _check_time(wanted)
    print(sbatch_file(wanted, _checked(wanted.recipe, others), others), end="")
    return 0


def sbatch_file(wanted: Launch, config: "Config", options: Sequence[str]) -> str:
    """The batch file: one task a GPU, a warning before the time is up, back into the queue after it."""
    gpus = () if config.trainer.accelerator == "cpu" else (f"--gpus-per-node={wanted.devices}",)
    given = {name: getattr(wanted, name) for name in PASSED_ON}
    cpus = f"--cpus-per-task={config.trainer.workers + 1}"
    settings = (
        f"--job-name={config.name}",
        *(f"--{name}={value}" for name, value in given.items() if value is not None),
        f"--nodes={wanted.nodes}",
        f"--ntasks-per-node={wanted.devices}",
        *gpus,
        cpus,
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
        f"srun {cpus} --kill-on-bad-exit=1 {shlex.join(command)}",  # since 22.05 not taken from above
    ]
    return "\n".join(lines) + "\n"


def _check_time(wanted: Launch) -> None:
    """InputError for a time that SLURM does not know, and a warning that does not come within it."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", wanted.time, re.ASCII)
    if found is None:
        raise InputError(
            f"time: found {wanted.time!r}; expected minutes, h:m:s, or days-h:m:s, as 8:00:00"
        )
    days, *parts = (int(part) if part is not None else None for part in found.groups())
    first, second, third = parts
    assert first is not None, "the pattern has it"
    if days is not None or third is not None:  # days-h, days-h:m, days-h:m:s, h:m:s
        seconds = 86400 * (days or 0) + 3600 * first + 60 * (second or 0) + (third or 0)
    else:  # m, m:s
        seconds = 60 * first + (second or 0)
    if not wanted.warning < min(seconds, MOST_WARNING):
        raise InputError(
            f"warning: found {wanted.warning} seconds; expected less than the time, {seconds} seconds, "
            f"and than {MOST_WARNING}, the most that SLURM takes"
        )


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
    from bifusion.studies.training_runs.plan import PlannedRun, check_settings

    given = [arg for arg in options if arg.partition("=")[0] in (*OWN, "--resume")]
    if given:
        raise InputError(f"launch: {given[0]} is given by --nodes, --devices and the file itself")
    wanted = parsed([recipe, *options])
    check_settings([PlannedRun(wanted.config, wanted.out)])
    return wanted.config
