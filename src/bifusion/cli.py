"""The command line: one function a command, arguments from typed dataclasses (tyro).

Bad input (InputError, a path that cannot be used) is printed without a traceback, exit status 2; a
comparison in which a run crashed leaves with status 1 after the others are done; Ctrl-C with 130,
everything saved.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from bifusion.types import InputError

# Commands import what they need when they run: torch takes seconds, `bifusion --help` should not.


def demo(args: list[str]) -> int:
    """Make rooms, pretrain the small image tower, train and compare five models, open the report."""
    from bifusion.demo import DemoConfig, run_demo

    return run_demo(_parse(DemoConfig, args, "demo"), Console())


@dataclass
class PrepareScanNet:
    """ScanNet as released (scans, label table, splits, posed images) into scene folders."""

    scans: Path
    """Folder with one folder a scan (…/scans)."""
    labels: Path
    """scannetv2-labels.combined.tsv."""
    out: Path
    """Data set to write: out/train/SCENE, out/val/SCENE."""
    posed_images: Path | None = None
    """Folder with one folder of posed colour and depth images a scan; without it no views."""
    splits: Path | None = None
    """Folder with scannetv2_{train,val,test}.txt; a scan listed twice goes to both splits. Without it
    all scans go to train."""
    frame_skip: int = 1
    """Take every n-th posed image."""
    depth_frame: Literal["registered", "sensor"] = "registered"
    """Whether depth images are registered to the colour camera (as released) or the sensor's own."""
    long_side: int | None = None
    """Shrink colour images to this long side in pixels (640 saves disk and decoding time)."""
    overwrite: bool = False
    """Write scenes again that are there already."""


def prepare(args: list[str]) -> int:
    """Make scene folders (`prepare synthetic`, `prepare scannet`) or complete them (`… superpoints`)."""
    kinds = {
        "synthetic": _prepare_synthetic,
        "scannet": _prepare_scannet,
        "superpoints": _prepare_superpoints,
    }
    if not args or args[0] not in kinds:
        raise InputError(
            f"prepare what? Expected one of {', '.join(kinds)}, found {args[:1] or 'nothing'}"
        )
    return kinds[args[0]](args[1:])


def _prepare_synthetic(args: list[str]) -> int:
    from bifusion.data.audit import audit
    from bifusion.data.synthetic import RoomsConfig, make_rooms
    from bifusion.progress import progress_bar

    @dataclass
    class PrepareSynthetic:
        """Rooms with ScanNet20 classes and rendered RGB-D views, and their audit."""

        out: Path
        """Data set to write."""
        voxel_size_m: float = 0.08
        """Voxel size the audit (probe, superpoint oracle) speaks of."""
        rooms: Annotated[RoomsConfig, tyro.conf.arg(name="")] = field(default_factory=RoomsConfig)

    wanted = _parse(PrepareSynthetic, args, "prepare synthetic")
    console = Console()
    with progress_bar("rooms", console) as progress:
        make_rooms(wanted.out, wanted.rooms, progress)
    console.print_json(data=audit(wanted.out, wanted.voxel_size_m))
    return 0


def _prepare_scannet(args: list[str]) -> int:
    from bifusion.data.prepare import prepare_scannet
    from bifusion.progress import progress_bar

    wanted = _parse(PrepareScanNet, args, "prepare scannet")
    console = Console()
    with progress_bar("scans", console) as progress:
        prepared = prepare_scannet(
            wanted.scans,
            wanted.out,
            labels=wanted.labels,
            posed_images=wanted.posed_images,
            splits=wanted.splits,
            frame_skip=wanted.frame_skip,
            overwrite=wanted.overwrite,
            depth_frame=wanted.depth_frame,
            long_side=wanted.long_side,
            progress=progress,
        )
    console.print(
        f"{len(prepared.written)} scenes written, {len(prepared.kept)} kept, "
        f"{sum(prepared.lost_views.values())} views left out because their pose is lost"
    )
    return 0


@dataclass
class PrepareSuperpoints:
    """superpoint.npy for scene folders without one, such as Pointcept's preprocessed ScanNet."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Scene folders, splits, or whole data sets."""
    scans: Path | None = None
    """ScanNet's released scans (…/scans), for scenes made from them: official superpoints then."""
    overwrite: bool = False
    """Replace superpoints that are there already."""


def _prepare_superpoints(args: list[str]) -> int:
    from bifusion.data.prepare_superpoints import prepare_superpoints
    from bifusion.progress import progress_bar

    wanted = _parse(PrepareSuperpoints, args, "prepare superpoints")
    if not wanted.folders:
        raise InputError("prepare superpoints of what? Expected at least one folder")
    console = Console()
    with progress_bar("scenes", console) as progress:
        sources = prepare_superpoints(
            wanted.folders, scans=wanted.scans, overwrite=wanted.overwrite, progress=progress
        )
    console.print(", ".join(f"{source}: {count}" for source, count in sources.items()))
    return 0


@dataclass
class Info:
    """Parameters of a recipe, part by part."""

    recipe: tyro.conf.Positional[str]


def info(args: list[str]) -> int:
    """Print a recipe's parameter counts per part."""
    from bifusion.info import print_info
    from bifusion.recipes import get_recipe

    print_info(get_recipe(_parse(Info, args, "info").recipe), Console())
    return 0


def train(args: list[str]) -> int:
    """Train a recipe (or a stored run.json) and evaluate its last checkpoint."""
    from bifusion.config import Config, load_config
    from bifusion.recipes import RECIPES, get_recipe
    from bifusion.training.trainer import train as run_training
    from bifusion.training.validation import evaluate_run

    if not args or args[0].startswith("-"):
        raise InputError(
            f"train what? Expected a recipe ({', '.join(RECIPES)}) or a run.json file first"
        )
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

    wanted = _parse(Train, args[1:], f"train {args[0]}")
    if wanted.init is not None:
        wanted.config.trainer.init = wanted.init
    status = run_training(wanted.config, wanted.out, resume=wanted.resume)
    if status.state == "interrupted":
        return 130
    evaluate_run(wanted.out)
    return 0


@dataclass
class Evaluate:
    """Evaluate the last checkpoint of a run on its validation scenes."""

    run: tyro.conf.Positional[Path]
    data: Path | None = None
    """Data set (its val/ folder counts) instead of the one the run was trained on; the figures go to
    evaluation-NAME.json beside the run's own."""


def evaluate(args: list[str]) -> int:
    """Evaluate a run again and print its figures."""
    from bifusion.training.validation import evaluate_run

    wanted = _parse(Evaluate, args, "evaluate")
    Console().print_json(data=evaluate_run(wanted.run, data=wanted.data)["full"])
    return 0


@dataclass
class Predict:
    """Segment one scene with a trained model."""

    run: tyro.conf.Positional[Path]
    """Run folder (its last checkpoint) or checkpoint folder."""
    scene: tyro.conf.Positional[Path]
    """Scene folder, see CONVENTIONS.md."""
    out: Path = Path("predictions")
    """Folder for semantic.ply, instance.ply and instances.json."""


def predict(args: list[str]) -> int:
    """Segment a scene folder: coloured PLY files and a list of instances."""
    from bifusion.predict import predict_scene

    wanted = _parse(Predict, args, "predict")
    for path in predict_scene(wanted.run, wanted.scene, wanted.out):
        print(path)
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
    from bifusion.export_submission import export_submission
    from bifusion.progress import progress_bar

    wanted = _parse(ExportSubmission, args, "export-submission")
    console = Console()
    with progress_bar("scenes", console) as progress:
        paths = export_submission(wanted.run, wanted.split, wanted.out, wanted.task, progress=progress)
    console.print(f"{len(paths)} scenes written to {wanted.out}", highlight=False)
    return 0


@dataclass
class Compare:
    """Train recipes side by side (or take finished runs) and report on them."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ()
    """Recipes to train; leave out to report on finished runs (--runs)."""
    data: Path | None = None
    """Data set to train on (train/ and val/ with scene folders)."""
    out: Path = Path("runs/compare")
    """Folder of the comparison; what is finished in it is not trained again."""
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    """Length of all runs instead of the recipes' own."""
    clip_weights: Path | None = None
    """Weights of the image tower for the recipes that have one."""
    jobs: int = 0
    """Runs at a time; 0: one a GPU, or two on a machine without."""
    runs: tuple[Path, ...] = ()
    """Finished run folders to report on, beside those trained here."""


def compare(args: list[str]) -> int:
    """Train several recipes on the same data and write the comparison report."""
    from bifusion.compare import check_runs, default_jobs, plan_runs, train_runs
    from bifusion.reports.comparison import print_table, write_report

    wanted = _parse(Compare, args, "compare")
    console = Console()
    if not wanted.recipes and not wanted.runs:
        raise InputError("nothing to compare: name recipes to train, or finished runs with --runs")
    if wanted.recipes and wanted.data is None:
        raise InputError("--data is missing: recipes to train need a data set (train/ and val/ folders)")
    planned, crashed, audit = [], [], None
    if wanted.recipes:
        planned = plan_runs(
            wanted.recipes,
            wanted.seeds,
            wanted.data,
            wanted.out,
            clip_weights=wanted.clip_weights,
            epochs=wanted.epochs,
        )
        check_runs(planned)
        jobs = wanted.jobs or default_jobs()
        crashed = train_runs(planned, wanted.out, jobs=jobs, title=wanted.out.name, console=console)
        audit = wanted.data / "audit.json"
    folders = [run.folder for run in planned if run.folder.name not in crashed] + list(wanted.runs)
    usable_audit = audit if audit is not None and audit.exists() else None
    report = write_report(
        folders, wanted.out, audit=usable_audit, crashed=crashed, title=wanted.out.name
    )
    print_table(report, console)
    console.print(f"report: {wanted.out / 'report.html'}")
    return 1 if crashed else 0


def dose(args: list[str]) -> int:
    """Dose and response: what images add as one property of generated rooms changes."""
    from bifusion.dose import DoseConfig, run_dose

    return run_dose(_parse(DoseConfig, args, "dose"), Console())


@dataclass
class ImportCheckpoint:
    """A published OneFormer3D or Mask3D checkpoint, or one of ours, into a run folder."""

    file: tyro.conf.Positional[Path]
    """.pth, .pt, .ckpt or .safetensors file, or a folder of ours. Nothing in it is executed."""
    out: tyro.conf.Positional[Path]
    """Run folder to write, for predict, evaluate --data and train --init."""
    partial: bool = False
    """Take what fits; the rest keeps its initial value."""


def import_checkpoint(args: list[str]) -> int:
    """Convert a published checkpoint to ours and list what became of its tensors."""
    from bifusion.import_checkpoint import print_conversion, read_checkpoint, write_imported

    wanted = _parse(ImportCheckpoint, args, "import-checkpoint")
    console = Console()
    imported = read_checkpoint(wanted.file)
    print_conversion(imported, console)
    print(f"run folder: {write_imported(imported, wanted.out, partial=wanted.partial)}")
    return 0


def pretrain_clip(args: list[str]) -> int:
    """Pretrain the small image tower contrastively on generated rooms of other seeds."""
    from bifusion.demo import PretrainClip, run_pretraining

    run_pretraining(_parse(PretrainClip, args, "pretrain-clip"), Console())
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo,
    "prepare": prepare,
    "info": info,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "export-submission": export_submission,
    "compare": compare,
    "dose": dose,
    "pretrain-clip": pretrain_clip,
    "import-checkpoint": import_checkpoint,
}


def _parse(kind, args: list[str], command: str):
    return tyro.cli(kind, args=args, prog=f"bifusion {command}")


def _help() -> str:
    lines = ["bifusion COMMAND [options]    (bifusion COMMAND --help lists the options)", ""]
    lines += [
        f"  {name:17} {(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the `bifusion` command."""
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if args else 2)
    try:
        if args[0] not in COMMANDS:
            raise InputError(f"command {args[0]!r} is unknown; known are {', '.join(COMMANDS)}")
        sys.exit(COMMANDS[args[0]](args[1:]))
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
