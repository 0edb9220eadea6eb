"""The command that trains one run.

It imports what it needs when it runs: torch takes seconds, `bifusion --help` should not.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bifusion.commands import parsing
from bifusion.commands.help import Help, short_help, table, wants_everything, wants_help
from bifusion.commands.options import list_options
from bifusion.errors import InputError
from bifusion.untrusted.names import shown
from bifusion.wording import plural

if TYPE_CHECKING:
    from bifusion.config.run import Config
    from bifusion.runs.run_folder import RunStatus

HELP = Help(
    "train bifusion_small --data.root data/rooms --out runs/mine",
    common=(
        "data.root", "out", "trainer.epochs", "seed", "init", "resume", "print-config",
    ),
)  # fmt: skip
SHOWN = "bifusion_small"
"""The recipe whose options stand for those of all where none is named."""


def train(args: list[str]) -> int:
    """Train a recipe (or a run's config.json) and evaluate its last checkpoint.

    Status 4 where the guard stopped the run, 130 or, by SIGTERM, 143 where a signal interrupted it.
    """
    wanted = parsed(args)  # help and mistakes need no trainer
    if wanted.print_config:
        return _print_config(wanted.config, wanted.out)

    from bifusion.inference.train_and_evaluate import train_and_evaluate
    from bifusion.runs.run_folder import GUARD_STOPPED_EXIT, RunFolder
    from bifusion.training.processes import group
    from bifusion.training.processes.requeue import requeue, signal_of
    from bifusion.training.signals import INTERRUPTED_EXIT, TERMINATED_EXIT

    before = RunFolder(wanted.out).read_status() if wanted.resume else None
    run = train_and_evaluate(
        wanted.config,
        wanted.out,
        resume=wanted.resume,
        accept_changes=wanted.accept_changes,
        verify_data=wanted.verify_data,
    )
    state, by_signal = run.status.state, signal_of(run.status.reason)
    if run.status == before and run.status.is_over and group.number() == 0:
        print(shown(_ended_before(run.folder, run.status, wanted.config.optim.schedule)))
    if state == "interrupted":
        told = requeue(by_signal) if group.number() == 0 else None
        if told is not None:
            print(f"bifusion: {told}", file=sys.stderr)
        group.barrier()  # a process that ended now would have srun end the first one before it has asked
    interrupted = TERMINATED_EXIT if by_signal == "SIGTERM" else INTERRUPTED_EXIT
    return {"interrupted": interrupted, "guard_stopped": GUARD_STOPPED_EXIT}.get(state, 0)


def _ended_before(folder: Path, status: "RunStatus", schedule: str) -> str:
    """What to say where there was nothing to go on with."""
    how, more = "stopped by its guard", ""
    if status.state == "completed":
        how, more = "completed", "; --trainer.epochs for more"
    if more and schedule != "constant":  # whose rates are laid out over the whole run
        more = f"; for a longer run that starts from its 3D network: --init {folder}, another --out"
    return (
        f"{folder}: {how} already, after {plural(status.epochs_done, 'epoch')}; figures in "
        f"{folder / 'evaluation.json'}{more}"
    )


def parsed(args: Sequence[str]) -> Any:
    """The options of a run, of `_train_options`."""
    recipe, rest = _recipe(args)
    _refuse_label_set_of_model(rest)
    wanted = parsing.parse(_train_options(_base(recipe)), rest, f"train {recipe}", HELP)
    _refuse_label_set_without_effect(rest, wanted.config.data.label_set, wanted.config.data.root)
    if wanted.init is not None:
        wanted.config.trainer.init = wanted.init
    return wanted


def _recipe(args: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The recipe, or the configuration file, and the other arguments; without one help is of all."""
    from bifusion.recipes import known_recipes

    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    if wants_everything(args):
        return SHOWN, args
    if wants_help(args):
        print(_help_of_all())
        sys.exit(0)
    raise InputError(
        f"train what? Expected a recipe ({known_recipes()}) or a run's config.json first; see "
        "bifusion train --help"
    )


def _base(recipe: str) -> "Config":
    from bifusion.recipes import config_of

    stored = Path(recipe) / "config.json"
    if stored.is_file():
        raise InputError(
            f"{recipe} is a run's folder, expected a recipe or a configuration: `bifusion train "
            f"{stored} --out {recipe} --resume` goes on with it"
        )
    return config_of(recipe)


def _train_options(base: "Config") -> type[Any]:
    """The options of a run that starts as `base`."""
    from bifusion.config.run import Config

    @dataclass
    class Train:
        """Train and evaluate. Every field of the recipe can be changed."""

        out: Path = Path("runs") / base.name
        """Run folder."""
        resume: bool = False
        """Go on from the folder's last checkpoint, if there is one."""
        accept_changes: bool = False
        """Go on though scenes or versions of the software have changed; reports then say what."""
        verify_data: bool = False
        """Read every file of the data first and compare it with the sums that `prepare` wrote."""
        init: Path | None = None
        """Start the 3D branch from this checkpoint, ours or published (trainer.init)."""
        print_config: bool = False
        """Print the whole configuration as JSON and do no more; `bifusion train FILE.json` takes it."""
        config: Annotated[tyro.conf.AvoidSubcommands[Config], tyro.conf.arg(name="")] = field(
            default_factory=lambda: base
        )

    return Train


def _print_config(config: "Config", out: Path) -> int:
    """What stands as "config" in the config.json of the run that this would be."""
    from bifusion.config.run import config_to_dict
    from bifusion.data.dataset import with_labels
    from bifusion.runs.check_config import check_config
    from bifusion.storage.json_files import json_text
    from bifusion.studies.training_runs.plan import PlannedRun, check_settings

    check_settings([PlannedRun(config, out)])
    config = check_config(config)
    config.data = with_labels(config.data)
    print(json_text(config_to_dict(config)), end="")
    return 0


def _help_of_all() -> str:
    from bifusion.recipes import describe_recipes

    return short_help(
        "train RECIPE|FILE.json",
        "Train a recipe (or a run's config.json) and evaluate it. Every field of it can be changed.",
        list(list_options(_train_options(_base(SHOWN)))),
        HELP,
        before=["recipes:", *table(describe_recipes())],
        defaults=False,
    )


def _refuse_label_set_without_effect(args: Sequence[str], name: str, root: Path) -> None:
    """InputError for a label set that is asked for of data that state another; recipes come with one,
    which such data may well overrule."""
    from bifusion.labels.files import LABELS_FILE, read_labels

    path = root / LABELS_FILE
    if not _is_given(args, "--data.label-set") or not path.is_file():
        return
    stated = read_labels(path)
    if name != stated.name:
        raise InputError(
            f"--data.label-set {name}: {path} states the classes of these data, {stated.describe()}; "
            "leave the option out, or take the file away if it is not theirs"
        )


def _is_given(args: Sequence[str], option: str) -> bool:
    return any(arg.partition("=")[0].replace("_", "-") == option for arg in args)


def _refuse_label_set_of_model(args: Sequence[str]) -> None:
    """An option of earlier versions: what stands in its place, in one line."""
    from bifusion.labels.sets import known_sets

    if _is_given(args, "--model.label-set"):
        raise InputError(
            "--model.label-set is no more: a model takes its classes from its data, which are those of "
            f"labels.json in --data.root, or the built-in --data.label-set NAME, one of {known_sets()}"
        )
