"""The full evaluation of a run's last checkpoint."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bifusion.config.run import Config, load_config
from bifusion.config.stages import Timeline
from bifusion.data.dataset import open_scenes, with_labels
from bifusion.errors import InputError, listing
from bifusion.evaluation.point_figures import PointFigures
from bifusion.evaluation.semantic import one_class_for_all
from bifusion.inference.device import autocast_dtype, usable_device
from bifusion.inference.export import point_segments
from bifusion.models.folding import for_inference
from bifusion.precision import float32_products
from bifusion.runs.checkpoint import CONFIG, TRAINING_STATE, find_checkpoint, trained_epochs
from bifusion.runs.run_data import are_scenes_of, read_data
from bifusion.runs.run_folder import RunFolder
from bifusion.runs.trained_model import load_model
from bifusion.storage.files import written_beside
from bifusion.storage.json_files import write_json
from bifusion.torch_defaults import as_torch_starts
from bifusion.training.processes import group
from bifusion.training.processes.watch import Watch
from bifusion.training.validation import Validation, count_share, validation_loader
from bifusion.types import Batch, FusionControl, Prediction
from bifusion.untrusted.json_text import read_json

_logger = logging.getLogger(__name__)


@as_torch_starts()
def evaluate_run(
    run_dir: Path,
    *,
    data: Path | None = None,
    own_data: Path | None = None,
    device: torch.device | str | None = None,
    precision: str = "32-true",
) -> dict[str, Any]:
    """Full evaluation of a run's last checkpoint on its validation scenes; writes evaluation.json.

    Beside the metrics as trained: with the views withheld and with the lifted features shuffled
    among the points (for models that use views), with the mean of a learned gate in its place, points
    seen and not seen, by how many views and from how far, apart, what that gate does point by point,
    and the alignment at the start and end of every stage. Writes predictions/ of two scenes for
    pictures.

    `data`: a data set other than the one it was trained on, of the same classes (InputError names
    those that differ), or that one, wherever it lies now: its scenes' checksums tell. `own_data`: where
    the data set it was trained on lies now; None: where its configuration says. `precision`: "32-true",
    whatever the run was trained in, so that runs of all precisions are compared; "bf16-mixed" or, on a
    GPU, "16-mixed" tells what that costs in accuracy. Figures of another data set or precision go to
    evaluation-NAME.json, evaluation-PRECISION.json or evaluation-NAME-PRECISION.json, without pictures:
    evaluation.json is what comparisons read as the
    run's result. (An imported checkpoint was trained on none of ours; its own result is on `data`.)
    InputError too where neither is there, and where `run_dir` is a checkpoint folder.

    Several processes (`group.joined`, or those of a training) share the scenes: all call it and get the
    figures, to the last digit those of one; the first one writes.
    """
    folder = RunFolder(run_dir)
    device = usable_device(device)
    checkpoint = find_checkpoint(folder.root)
    if checkpoint != folder.checkpoints / "last":
        raise InputError(
            f"{run_dir}: is a checkpoint, no run folder; expected the folder of its run, which the "
            "figures are written into"
        )
    folder.read_stages()  # refused now if it cannot be read, not after all scenes
    hang_minutes = load_config(checkpoint / CONFIG).trainer.hang_minutes
    with Watch(60 * hang_minutes) as watch, float32_products("ieee", device):
        return _evaluate(folder, checkpoint, data, own_data, device, precision, watch)


def _evaluate(
    folder: RunFolder,
    checkpoint: Path,
    data: Path | None,
    own_data: Path | None,
    device: torch.device,
    precision: str,
    watch: Watch,
) -> dict[str, Any]:
    dtype = autocast_dtype(precision, device)
    model, config = load_model(checkpoint, device)
    model = _Narrow(for_inference(model, dtype), dtype) if dtype is not None else for_inference(model)
    if own_data is not None:
        config.data.root = own_data
    target = _target(folder, checkpoint, config, data, None if dtype is None else precision)
    elsewhere = None if data is None or target == folder.evaluation else str(data.resolve())
    if elsewhere is not None:
        _require_same_data(target, elsewhere)
    if data is not None:
        config.data.root = data
    config.data = with_labels(config.data, of_run=str(folder.root))
    time = trained_epochs(checkpoint, config)
    control = Timeline(config.stages, config.trainer.epochs).at_end(time).control
    views = config.data.max_views or config.trainer.evaluation_views

    def run(
        *, by_point: bool = False, without: PointFigures | None = None, **changes: Any
    ) -> Validation:
        loader = validation_loader(config, max_views=views)
        counted = count_share(
            model,
            loader,
            config,
            dataclasses.replace(control, **changes),
            device=device,
            at=watch.at,
            by_point=by_point,
            right_without=without.right if without is not None else None,
        )
        return counted.outcome()

    full, figures = _figures(run, config, control)
    evaluation = {
        "epoch": max(math.ceil(time) - 1, 0),
        "data": config.data.source or config.data.root.resolve().name,
        **figures,
        "alignment_by_stage": alignment_by_stage(folder),
    }
    if elsewhere is not None:
        evaluation["data_folder"] = elsewhere
    watch.at("writing the evaluation")
    if group.number() == 0:
        if target == folder.evaluation:
            write_predictions(folder, config, full)
        write_json(target, evaluation)  # last: a run that has it counts as evaluated
        _warn_of_nothing_learned(folder, full)
    group.barrier()
    return evaluation


def _warn_of_nothing_learned(folder: RunFolder, full: Validation) -> None:
    if full.nan:
        _logger.warning(
            "%s: the model answers with NaN or infinity in %d scenes (%s): its figures say nothing",
            folder.root,
            len(full.nan),
            listing(full.nan),
        )
    elif told := one_class_for_all(full.metrics["iou"] or {}):
        _logger.warning("%s: %s: it has learned next to nothing (yet)", folder.root, told)


def _target(
    folder: RunFolder, checkpoint: Path, config: Config, data: Path | None, precision: str | None
) -> Path:
    """The file that figures on `data` (None: the run's own) in `precision` (None: float32) go to;
    InputError where the run's own data are wanted and not there."""
    root = config.data.root
    if data is None and config.data.source is None and not root.is_dir():
        place = "here" if root.is_absolute() else f"in {Path.cwd()}"
        other = "" if root.is_absolute() else "start from where the training was started, or "
        raise InputError(
            f"{folder.root}: the data set {root} of its configuration is not {place} (a published "
            f"checkpoint comes without); {other}name one to evaluate on, --data or, in Python, data="
        )
    of_what = []
    if data is not None:
        trained_here = (checkpoint / TRAINING_STATE).is_file()
        if trained_here and not _is_own(folder, config, data):
            of_what.append(data.resolve().name)
    if precision is not None:
        of_what.append(precision)
    return folder.root / f"evaluation-{'-'.join(of_what)}.json" if of_what else folder.evaluation


def _is_own(folder: RunFolder, config: Config, data: Path) -> bool:
    """Whether `data` is where the run's own data are said to be, or what it was validated on, moved."""
    if data.resolve() == config.data.root.resolve():
        return True
    then = read_data(folder.root)
    there = dataclasses.replace(config, data=dataclasses.replace(config.data, root=data))
    return then is not None and are_scenes_of(then, there, "val")


def _require_same_data(target: Path, data: str) -> None:
    """InputError where `target` holds figures on another data set, whose folder has the same name."""
    if not target.is_file():
        return
    stored = read_json(target, advice="move it away and evaluate again")
    before = stored.get("data_folder", data) if isinstance(stored, dict) else data
    if before != data:
        raise InputError(
            f"{target}: holds the figures on {before}, not on {data}, whose folder has the same name; "
            "move the file away, or rename one of the two folders"
        )


def _figures(
    run: Callable[..., Validation], config: Config, control: FusionControl
) -> tuple[Validation, dict[str, Any]]:
    """The validation with views, and all that evaluation.json says of it and of the same without them,
    with others' 2D features and with the mean gate; `run` validates with changes to `control`."""
    withheld = run(by_point=True, withhold_views=True) if config.uses_views else None
    full = run(by_point=True, without=withheld.points if withheld is not None else None)
    assert full.points is not None, "they were asked for"
    gate = full.points.gate()
    flat = gate["mean"] / control.scale if gate is not None else None
    return full, {
        "full": full.metrics,
        "views_withheld": withheld.metrics if withheld is not None else None,
        "shuffled_2d": run(shuffle_seed=config.seed).metrics if config.uses_views else None,
        "flat_gate": run(fixed_alpha=flat).metrics if flat is not None else None,  # a gate is s·α
        **full.points.by_sight(),
        "gate": gate,
    }


class _Narrow(nn.Module):
    """A network whose products, but not those of what is made of its prediction, are in `dtype`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, batch: Batch, control: FusionControl) -> Prediction:
        with torch.autocast(batch.voxel_coords.device.type, self.dtype):
            return self.model(batch, control)


def alignment_by_stage(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Alignment at the start and end of every stage, from the validations of epochs.jsonl.

    The start is the last validation before the stage (the first stage: the first in it), the end
    the last one in it; None where none was made.
    """
    measured = [
        (record["epoch"], record["val"]["alignment"])
        for record in folder.read_lines(folder.epochs)
        if record.get("val") is not None
    ]
    table = {}
    for stage in folder.read_stages():
        before = [alignment for epoch, alignment in measured if epoch < stage.first_epoch]
        within = [
            alignment for epoch, alignment in measured if stage.first_epoch <= epoch < stage.end_epoch
        ]
        start = before[-1] if before else (within[0] if within else None)
        table[stage.name] = {"start": start, "end": within[-1] if within else None}
    return table


def write_predictions(folder: RunFolder, config: Config, validation: Validation) -> None:
    """predictions/SCENE.npz: points, annotation and prediction of each of the first scenes."""
    scenes = open_scenes(config.data, "val", annotated=False)
    for result, truth in zip(validation.first_results, validation.first_truths, strict=True):
        scene = scenes.scene(result.name)
        none = np.full(result.num_points, -1, dtype=np.int32)
        arrays = {
            "coord": np.asarray(scene.coord, dtype=np.float32),
            "color": np.asarray(scene.color, dtype=np.uint8),
            "truth_semantic": truth.semantic.astype(np.int16),
            "truth_instance": truth.instance.astype(np.int32),
            "semantic": none if result.semantic is None else result.semantic,
            "panoptic_instance": point_segments(result)[1],
            "instance_scores": result.scores,  # of the instances by their ids
        }
        path = folder.predictions / f"{result.name}.npz"
        with written_beside(path) as beside, open(beside, "wb") as file:
            np.savez_compressed(file, **arrays)
