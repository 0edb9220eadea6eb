"""Commands on one model: info, train, evaluate, predict, export-submission, import-checkpoint.

A command imports what it needs when it runs: torch takes seconds, `bifusion --help` should not.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from bifusion.commands import parsing
from bifusion.types import InputError


@dataclass
class Info:
    """Parameters of a recipe, part by part."""

    recipe: tyro.conf.Positional[str]


def info(args: list[str]) -> int:
    """Print a recipe's parameter counts per part."""
    from bifusion.commands.info import print_info
    from bifusion.recipes import get_recipe

    print_info(get_recipe(parsing.parse(Info, args, "info").recipe), Console())
    return 0


def train(args: list[str]) -> int:
    """Train a recipe (or a stored run.json) and evaluate its last checkpoint.

    Status 4 where the guard stopped the run, 130 where a signal interrupted it.
    """
    from bifusion.config.run import Config, load_config
    from bifusion.inference.evaluate import evaluate_run
    from bifusion.recipes import get_recipe, known_recipes
    from bifusion.runs.run_folder import GUARD_STOPPED_EXIT
    from bifusion.training.trainer import train as run_training

    if not args or args[0].startswith("-"):
        raise InputError(f"train what? Expected a recipe ({known_recipes()}) or a run.json file first")
    base = load_config(Path(args[0])) if args[0].endswith(".json") else get_recipe(args[0])

    @dataclass
    class Train:
        """Train and evaluate. Every field of the recipe can be changed: see the options below."""

        out: Path = Path("runs") / base.name
        """Run folder."""
        resume: bool = False
        """Go on from the folder's last checkpoint, if there is one."""
        init: Path | None = None
        """Start the 3D branch from this checkpoint, ours or a published one (trainer.init)."""
        config: Annotated[tyro.conf.AvoidSubcommands[Config], tyro.conf.arg(name="")] = field(
            default_factory=lambda: base
        )

    _refuse_label_set_of_model(args)
    wanted = parsing.parse(Train, args[1:], f"train {args[0]}")
    if wanted.init is not None:
        wanted.config.trainer.init = wanted.init
    status = run_training(wanted.config, wanted.out, resume=wanted.resume)
    if status.state == "interrupted":
        return 130
    evaluate_run(wanted.out)
    return GUARD_STOPPED_EXIT if status.state == "guard_stopped" else 0


def _refuse_label_set_of_model(args: list[str]) -> None:
    """An option of earlier versions: what stands in its place, in one line."""
    from bifusion.labels.sets import known_sets

    if any(arg.partition("=")[0] in ("--model.label-set", "--model.label_set") for arg in args):
        raise InputError(
            "--model.label-set is no more: a model takes its classes from its data, which are those of "
            f"labels.json in --data.root, or the built-in --data.label-set NAME, one of {known_sets()}"
        )


@dataclass
class Evaluate:
    """Evaluate the last checkpoint of a run on its validation scenes."""

    run: tyro.conf.Positional[Path]
    data: Path | None = None
    """Data set (its val/ folder counts) instead of the one the run was trained on; the figures go to
    evaluation-NAME.json beside the run's own."""


def evaluate(args: list[str]) -> int:
    """Evaluate a run again and print its figures."""
    from bifusion.inference.evaluate import evaluate_run

    wanted = parsing.parse(Evaluate, args, "evaluate")
    Console().print_json(data=evaluate_run(wanted.run, data=wanted.data)["full"])
    return 0


@dataclass
class Predict:
    """Segment one scene with a trained model."""

    run: tyro.conf.Positional[Path]
    """Run folder (its last checkpoint) or checkpoint folder."""
    scene: tyro.conf.Positional[Path]
    """Scene folder, see CONVENTIONS.md, or a mesh or cloud: .ply, .obj or .glb."""
    scale: float = 1.0
    """Metres a unit of a mesh file: 0.001 for millimetres."""
    up: Literal["z", "y", "x", "-z", "-y", "-x"] | None = None
    """Which axis of a mesh file points up; without it y for .glb, z for the others."""
    out: Path = Path("predictions")
    """Folder for semantic.ply, instance.ply and instances.json."""


def predict(args: list[str]) -> int:
    """Segment a scene folder or a mesh file: coloured PLY files and a list of instances."""
    from bifusion.datasets.mesh_files.read import is_mesh_file
    from bifusion.inference.predict import predict_mesh, predict_scene

    wanted = parsing.parse(Predict, args, "predict")
    if is_mesh_file(wanted.scene) or wanted.scene.is_file():
        paths, notes = predict_mesh(
            wanted.run, wanted.scene, wanted.out, scale=wanted.scale, up=wanted.up
        )
    else:
        paths, notes = predict_scene(wanted.run, wanted.scene, wanted.out), []
    for line in (*(f"{wanted.scene.name}: {note}" for note in notes), *paths):
        print(line)
    return 0


@dataclass
class ExportSubmission:
    """Predict a split and write it as the ScanNet benchmark's server takes it."""

    run: tyro.conf.Positional[Path]
    """Run folder (its last checkpoint) or checkpoint folder."""
    split: tyro.conf.Positional[Path]
    """Folder of scene folders, such as data/scannet/test; labels are not needed."""
    out: Path
    """Folder to write; zip its content to submit it."""
    task: Literal["semantic", "instance"]
    """One label id a vertex, or masks with label ids and confidences."""


def export_submission(args: list[str]) -> int:
    """Write the ScanNet benchmark's submission files of a split."""
    from bifusion.inference.export_submission import export_submission
    from bifusion.studies.training_runs.progress import progress_bar

    wanted = parsing.parse(ExportSubmission, args, "export-submission")
    console = Console()
    with progress_bar("scenes", console) as progress:
        paths = export_submission(wanted.run, wanted.split, wanted.out, wanted.task, progress=progress)
    console.print(f"{len(paths)} scenes written to {wanted.out}", highlight=False)
    return 0


@dataclass
class ImportCheckpoint:
    """A published OneFormer3D or Mask3D checkpoint, or one of ours, into a run folder."""

    file: tyro.conf.Positional[Path]
    """.pth, .pt, .ckpt or .safetensors file, or a folder of ours. Nothing in it is executed."""
    out: tyro.conf.Positional[Path]
    """Run folder to write, for predict, evaluate --data and train --init."""
    partial: bool = False
    """Take what fits; the rest keeps its initial value."""
    weights: str | None = None
    """Which of several state dicts in the file, such as ema_state_dict; without it those as trained."""


def import_checkpoint(args: list[str]) -> int:
    """Convert a published checkpoint to ours and list what became of its tensors."""
    from bifusion.official.import_checkpoint import print_conversion, read_checkpoint, write_imported

    wanted = parsing.parse(ImportCheckpoint, args, "import-checkpoint")
    console = Console()
    imported = read_checkpoint(wanted.file, wanted.weights)
    print_conversion(imported, console)
    print(f"run folder: {write_imported(imported, wanted.out, partial=wanted.partial)}")
    return 0
