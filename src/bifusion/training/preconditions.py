"""What must hold before a run starts; each check raises InputError that says what to do."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import suppress
from itertools import pairwise

import numpy as np

from bifusion.config.run import Config, load_config
from bifusion.config.stages import unmatched_patterns
from bifusion.data.dataset import SceneDataset
from bifusion.data.scene_folder import load_points, read_unit_stated, segment_file
from bifusion.data.scene_source import SceneFolders
from bifusion.datasets.check.doubles import copies_of_training, why_leaking
from bifusion.datasets.placement import size_note
from bifusion.errors import InputError, listing
from bifusion.losses.criterion import Criterion, check_weights
from bifusion.models.model import Model
from bifusion.runs.run_data import SPLITS, RunData, data_of, read_data
from bifusion.runs.run_folder import RunFolder
from bifusion.runs.same_run import check_same_run

_logger = logging.getLogger("bifusion.training")


def check_data(dataset: SceneDataset, config: Config) -> None:
    """InputError if no scene has a labelled point, or none the views that the model is trained with.

    Single scenes without labels or views are fine.
    """
    scenes, labels = dataset.scenes, config.labels
    what = segment_file(labels) if isinstance(scenes, SceneFolders) else "segment"
    # Scenes from outside are made to be asked: one that answers is enough.
    if not any(scenes.has_labels(n) and scenes.has_labelled_points(n) for n in scenes.names):
        annotated = sum(map(scenes.has_labels, scenes.names))
        if not annotated:
            raise InputError(
                f"{scenes.place}: no scene has {what}, the labels of {labels.describe()}; prepare "
                "the scenes with annotation, or choose the label set they have (--data.label-set, or "
                f"labels.json in {config.data.root})"
            )
        raise InputError(
            f"{scenes.place}: {what} labels no point in any of its {annotated} scenes, -1 is "
            f"unlabelled; expected classes 0 … {labels.num_classes - 1} of {labels.name}"
        )
    if not config.uses_views:
        return
    found = None if any(map(scenes.has_views, scenes.names)) else "no scene has views"
    if not config.data.max_views:
        found = found or "data.max_views is 0"
    if found:
        raise InputError(
            f"{scenes.place}: {found}, but {config.name} is trained with images; prepare the scenes "
            "with views (--posed-images), or train the recipe that ends in _without_views"
        )


def warn_of_data(training: SceneDataset, validation: SceneDataset) -> None:
    """Says before the hours of a training what of its scene folders is seldom meant: a unit that is not
    the metre, by the first scene; no objects; nothing to validate on."""
    scenes, held_out = training.scenes, validation.scenes
    if not isinstance(scenes, SceneFolders) or not isinstance(held_out, SceneFolders):
        return
    with suppress(InputError):  # told where the scene is loaded
        coord, _, _ = load_points(scenes.folder / scenes.names[0])
        finite = bool(np.isfinite(coord).all())
        by = "multiplying coordinates and poses by"
        stated = read_unit_stated(scenes.folder / scenes.names[0])
        note = size_note(coord, lambda factor: f"{by} {factor:g}", stated=stated) if finite else None
        if note:
            _logger.warning("%s: %s", scenes.where(scenes.names[0], "coord"), note)
    _warn_of_parts(scenes, "to train on", views=scenes.read_views)
    _warn_of_parts(held_out, "to validate on", views=False)
    if not any(_has_objects(scenes, name) for name in scenes.names):
        _logger.warning(
            "%s: none of its %d scenes has an instance.npy, so no objects are learned: there will be no "
            "AP",
            scenes.place,
            len(scenes.names),
        )
    elif not any(_has_objects(held_out, name) for name in held_out.names):
        _logger.warning(
            "%s: none of its %d scenes has an instance.npy, so no objects are measured: there will be "
            "no AP",
            held_out.place,
            len(held_out.names),
        )
    if not any(held_out.has_labelled_points(name) for name in held_out.names):
        _logger.warning(
            "%s: no point of its %d scenes has a class, so nothing is validated: there will be no mIoU",
            held_out.place,
            len(held_out.names),
        )


def _has_objects(scenes: SceneFolders, name: str) -> bool:
    return (scenes.folder / name / "instance.npy").is_file()


def _warn_of_parts(scenes: SceneFolders, what: str, *, views: bool) -> None:
    """Names the scenes without annotation or, if asked, `views`, where others have them."""
    wanted = {"annotation": scenes.has_labels} | ({"views": scenes.has_views} if views else {})
    for part, has in wanted.items():
        without = [name for name in scenes.names if not has(name)]
        if 0 < len(without) < len(scenes.names):
            of_all = f"{len(without)} of its {len(scenes.names)} scenes {what} have no {part}"
            _logger.warning("%s: %s: %s", scenes.place, of_all, listing(without))


def warn_of_warmup(config: Config, steps: int) -> None:
    """Says where a run of so many `steps` ends before its rates have risen to what is asked for."""
    warmup = config.optim.warmup_steps
    if steps < warmup:
        _logger.warning(
            "%s: optim.warmup_steps is %d, but the run has %d steps: its rates end at %.2g of what they "
            "are to be; lower --optim.warmup-steps, or train for more epochs",
            config.name,
            warmup,
            steps,
            steps / warmup,
        )


def warn_of_leaks(data: RunData) -> None:
    """Says which scenes of validation are scenes of training, by name or, as far as their points' files
    have sums, by these."""
    of_split = {
        split: [name.split("/", 1)[1] for name in data.scenes if name.startswith(f"{split}/")]
        for split in SPLITS
    }
    points = {
        name: files["coord.npy"].sha256 for name, files in data.scenes.items() if "coord.npy" in files
    }
    leaking = why_leaking(of_split["train"], of_split["val"], copies_of_training(points))
    if leaking:
        _logger.warning("%s: %s", data.root, leaking)


def check_devices(scenes: int, processes: int) -> None:
    """InputError if there is no scene for each process."""
    if scenes < processes:
        raise InputError(
            f"trainer.devices × trainer.nodes is {processes}, more processes than the {scenes} scenes "
            "to train on: use fewer devices"
        )


def check_folder(
    folder: RunFolder, config: Config, resume: bool, *, accept: bool = False, read: bool = False
) -> RunData:
    """The data to train on; InputError if the folder holds a run that must not be mixed with this one,
    or a run that begins has an image tower whose weights are not there or do not belong to it.

    `accept`: scenes and versions may be others. `read`: every byte of the data is, and damage refused.
    """
    saved = folder.checkpoints.is_dir() and any(folder.checkpoints.glob("[!.]*"))
    if not (folder.steps.exists() or saved):  # a copy may have left the records out
        if (tower := config.model.image_tower) is not None:
            tower.check_weights()
        return data_of(config, read=read)
    if not resume:
        raise InputError(
            f"{folder.root} holds a run already: resume it (--resume, in Python resume=True), or choose "
            "another folder"
        )
    started = load_config(folder.config)
    advice = (
        f"Resume it as it began (`bifusion train {folder.config} --resume --out {folder.root}`), on the "
        "same scenes, or choose another folder (--out)."
    )
    now = data_of(config, read=read)
    accepted = check_same_run(folder, started, config, advice=advice, accept=accept, now=now)
    if not saved and _was_saved(folder, started):
        raise InputError(
            f"{folder.checkpoints} is empty, though the run was saved: restore it from a copy, or train "
            "into another folder"
        )
    then = read_data(folder.root)
    before = then.accepted if then is not None else []
    return dataclasses.replace(now, accepted=[*before, *([accepted] if accepted else [])])


def _was_saved(folder: RunFolder, config: Config) -> bool:
    """Whether the records show that a checkpoint was once written. A run killed before its first one
    has records too, but none that comes after a line at which it was to be saved."""
    every, epochs = config.trainer.save_epochs, folder.read_lines(folder.epochs)
    if any(epoch["val"] is not None or (epoch["epoch"] + 1) % every == 0 for epoch in epochs[:-1]):
        return True
    every, steps = config.trainer.save_every, folder.read_lines(folder.steps)
    return every > 0 and any(
        (before["step"] + 1) % every == 0 and before["epoch"] == after["epoch"]
        for before, after in pairwise(steps)
    )


def check_stages(config: Config, model: Model, criterion: Criterion) -> None:
    """InputError for a pattern of the stages that matches no parameter group of the model, or a weight
    of a loss term that there is not or that its predictions do not give."""
    groups = list(model.parameter_groups())
    unmatched = unmatched_patterns(config.stages, groups)
    if unmatched:
        raise InputError(
            f"stages: {', '.join(unmatched)} match no parameter group; the model has {', '.join(groups)}"
        )
    weighted = dict.fromkeys(term for stage in config.stages.stages for term in stage.weights)
    check_weights(weighted, criterion, model.optional_outputs(), config.name)
