"""Commands on one model: info, evaluate, predict, export-submission, import-checkpoint.

A command imports what it needs once its options are read: torch takes seconds, no help should.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from bifusion.commands import parsing
from bifusion.commands.help import Help
from bifusion.commands.telling import going_on, say, tell_failed
from bifusion.errors import InputError
from bifusion.untrusted.names import shown
from bifusion.untrusted.screen import Screen
from bifusion.wording import plural


@dataclass
class Info:
    """Parameters of a recipe, part by part."""

    recipe: tyro.conf.Positional[str]
    """A name that `bifusion train --help` lists, or module:function."""


def info(args: list[str]) -> int:
    """Print a recipe's parameter counts per part."""
    wanted = parsing.parse(Info, args, "info", Help("info bifusion_scannet20"))

    from bifusion.commands.info import print_info
    from bifusion.recipes import get_recipe

    print_info(get_recipe(wanted.recipe), Screen())
    return 0


@dataclass
class Evaluate:
    """Evaluate the last checkpoint of a run on its validation scenes."""

    run: tyro.conf.Positional[Path]
    """Run folder, or a published OneFormer3D or Mask3D checkpoint as it was downloaded."""
    data: Path | None = None
    """Data set (its val/ folder counts) instead of the one the run was trained on; the figures go to
    evaluation-NAME.json beside the run's own."""
    devices: int = 1
    """Processes of this machine that share the scenes, each with a device of its own."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic; the figures of another than float32 go to evaluation-PRECISION.json."""


def evaluate(args: list[str]) -> int:
    """Evaluate a run again and print its figures."""
    wanted = parsing.parse(Evaluate, args, "evaluate", Help("evaluate runs/NAME --data data/scannet"))

    from bifusion.inference.device import keep_freed_memory
    from bifusion.inference.evaluate import evaluate_run
    from bifusion.storage.json_files import to_json
    from bifusion.training.processes import group

    if wanted.devices < 1:
        raise InputError(f"devices: found {wanted.devices}; expected 1 or more")
    run = _run_of(wanted.run)
    with group.joined(wanted.devices):
        keep_freed_memory()
        found = evaluate_run(run, data=wanted.data, precision=wanted.precision)
        if group.number() == 0:
            Screen().print_json(data=to_json(found["full"]))
    return 0


@dataclass
class Predict:
    """Segment one scene, or all of a data set, with a trained model."""

    run: tyro.conf.Positional[Path]
    """Run folder (its last checkpoint), checkpoint folder, or a published OneFormer3D or Mask3D
    checkpoint as it was downloaded."""
    scene: tyro.conf.Positional[Path]
    """Scene folder, mesh or cloud (as `scan` takes them), or a folder of scene folders (CONVENTIONS.md):
    then out/NAME of each, those that are there stay."""
    scale: float | None = None
    """Metres a unit of a mesh file: 0.001 for millimetres; left out: as the file says, else 1."""
    up: Literal["z", "y", "x", "-z", "-y", "-x"] | None = None
    """Which axis of a mesh file points up; without it y for .glb, z for the others."""
    out: Path = Path("predictions")
    """Folder for semantic.ply, instance.ply, instances.json and view.html."""
    view: bool = True
    """Write view.html, a page to look around in."""
    shard: str | None = None
    """i/n: only every n-th of several scenes, from the i-th on; left out: as torchrun says, or all."""
    overwrite: bool = False
    """Of several scenes, predict those again that are there."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None
    """Arithmetic; left out: float32 on a CPU, on a GPU what the run was trained in. bf16-mixed is faster
    also on CPUs with AMX or AVX512-BF16."""
    min_score: float | None = None
    """Score from 0 to 1 above which a candidate becomes an object; left out: the run's, usually 0.5."""


def predict(args: list[str]) -> int:
    """Segment a scene, a mesh, or a folder of scenes: PLY files, instances, a page."""
    wanted = parsing.parse(
        Predict, args, "predict", Help("predict runs/NAME room.ply --out predictions")
    )

    from bifusion.datasets.mesh_files.read import check_unplaced, is_mesh_file
    from bifusion.inference.device import keep_freed_memory
    from bifusion.inference.predict_data import scenes_below
    from bifusion.inference.segmenter import Segmenter, check_min_score
    from bifusion.viewer.page import write_view
    from bifusion.viewer.prediction import show_result

    check_min_score(wanted.min_score, "--min-score")
    keep_freed_memory()
    if scenes := scenes_below(wanted.scene):
        return _predict_all(wanted, scenes)
    if wanted.shard is not None:
        raise InputError(f"shard: {wanted.scene} is one scene; expected a folder of scene folders")
    if not is_mesh_file(wanted.scene) and not wanted.scene.is_file():
        check_unplaced(wanted.scene, wanted.scale, wanted.up)  # before a checkpoint is converted
    segmentation = Segmenter(_run_of(wanted.run), precision=wanted.precision).predict(
        wanted.scene, scale=wanted.scale, up=wanted.up, min_score=wanted.min_score
    )
    paths = segmentation.write(wanted.out)
    if wanted.view:
        paths = [*paths, wanted.out / "view.html"]
        write_view(paths[-1], show_result(wanted.out, wanted.scene))
    told = [*segmentation.notes, segmentation.describe_objects("--min-score")]
    for line in (*(f"{wanted.scene.name}: {note}" for note in told), *paths):
        print(shown(line))
    return 0


def _predict_all(wanted: Predict, scenes: dict[str, Path]) -> int:
    """Every scene of a folder, one line each; status 1 where some failed."""
    from bifusion.datasets.shards import asked_shard
    from bifusion.inference.predict_data import PredictedScenes, predict_scenes
    from bifusion.viewer.page import write_view
    from bifusion.viewer.prediction import show_result

    def show(folder: Path, scene: Path) -> None:
        write_view(folder / "view.html", show_result(folder, scene))

    def done(name: str, predicted: PredictedScenes, count: int) -> None:
        ended = len(predicted.written) + len(predicted.kept) + len(predicted.failed)
        word = "failed" if name in predicted.failed else predicted.written.get(name, "kept")
        say(console, f"{ended}/{count} {name}: {word}")

    console, shard = Screen(), asked_shard(wanted.shard)
    if shard.count > 1:
        say(console, f"shard {shard} of {len(scenes)} scenes")
    with going_on(wanted.overwrite):
        predicted = predict_scenes(
            _run_of(wanted.run),
            scenes,
            wanted.out,
            shard=shard,
            overwrite=wanted.overwrite,
            precision=wanted.precision,
            min_score=wanted.min_score,
            show=show if wanted.view else None,
            done=done,
        )
    say(console, f"{plural(len(predicted.written), 'scene')} predicted, {len(predicted.kept)} kept")
    return tell_failed(predicted.failed, "scene", "predicted")


def _run_of(path: Path) -> Path:
    """The run folder meant; for a published checkpoint, one line on stderr says where it was made."""
    from bifusion.official.run_of import run_of

    return run_of(path, say=lambda line: print(shown(line), file=sys.stderr))


@dataclass
class ExportSubmission:
    """Predict a split and write it as the ScanNet benchmark's server takes it."""

    run: tyro.conf.Positional[Path]
    """Run folder (its last checkpoint), checkpoint folder, or a published checkpoint."""
    split: tyro.conf.Positional[Path]
    """Folder of scene folders, such as data/scannet/test; labels are not needed."""
    out: Path
    """Folder to write; zip its content to submit it."""
    task: Literal["semantic", "instance"]
    """One label id a vertex, or masks with label ids and confidences."""


def export_submission(args: list[str]) -> int:
    """Write the ScanNet benchmark's submission files of a split."""
    told = Help("export-submission runs/NAME data/scannet/test --task semantic --out submission")
    wanted = parsing.parse(ExportSubmission, args, "export-submission", told)

    from bifusion.inference.device import keep_freed_memory
    from bifusion.inference.export_submission import export_submission
    from bifusion.studies.training_runs.progress import progress_bar

    console = Screen()
    keep_freed_memory()
    with progress_bar("scenes", console) as progress:
        paths = export_submission(
            _run_of(wanted.run), wanted.split, wanted.out, wanted.task, progress=progress
        )
    console.print(f"{plural(len(paths), 'scene')} written to {wanted.out}", highlight=False)
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
    told = Help("import-checkpoint scannet_val.ckpt runs/mask3d-published")
    wanted = parsing.parse(ImportCheckpoint, args, "import-checkpoint", told)

    from bifusion.official.import_checkpoint import print_conversion, read_checkpoint, write_imported

    console = Screen()
    imported = read_checkpoint(wanted.file, wanted.weights)
    print_conversion(imported, console)
    print(f"run folder: {write_imported(imported, wanted.out, partial=wanted.partial)}")
    return 0
