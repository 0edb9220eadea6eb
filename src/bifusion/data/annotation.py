"""What a data set's annotation says only as a whole: how it numbers its instances."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bifusion.data.scene_folder import load_labels, scene_folders
from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet

LOOKED_AT = 50
"""Scenes of a split that are looked at, evenly spaced: enough to tell, and soon read."""
MIXED = 0.1
"""Share of an instance's points outside its commonest class from which it is no one thing."""

ANEW = 0.5
"""Share of instances of several classes from which they are numbered class by class."""

_logger = logging.getLogger("bifusion.data")


@dataclass(frozen=True)
class Annotation:
    """How the labels of scene folders are read."""

    zero_is_none: bool = False
    """Instances are numbered from 1, and 0 is what −1 is in our own folders."""


AS_OURS = Annotation()


@dataclass(frozen=True)
class LabelledScene:
    """What one scene shows."""

    name: str
    has_negative: bool
    """Some point has a negative instance: there −1 is none."""
    zero_is_mixed: bool | None
    """Whether the points of instance 0 are of several classes; None: there is no such point."""
    instances: int
    """Annotated instances of things, but for instance 0."""
    spanning: tuple[str, ...]
    """Those whose points are of several thing classes, described."""


def find_annotation(root: Path, labels: LabelSet) -> Annotation:
    """How the data set in `root` numbers its instances, by what its scenes show; says so where it is
    not as ours, and where instances span several classes.

    Numbering from 1 with 0 for none is taken where no scene has a negative instance, and in most
    scenes the points of instance 0 are of several classes (the unlabelled ones count as one), as no
    one object's are. Scenes whose arrays cannot be read say nothing here.
    """
    scenes = [s for split in ("train", "val") for s in _look(Path(root) / split, labels)]
    votes = [s.zero_is_mixed for s in scenes if s.zero_is_mixed is not None]
    zero_is_none = sum(votes) > len(votes) / 2 and not any(s.has_negative for s in scenes)
    if zero_is_none:
        _say(
            f"{root}: instance.npy numbers instances from 1, with 0 for none (in {sum(votes)} of "
            f"{len(votes)} scenes looked at, instance 0 is of several classes); read so"
        )
    spanning = [text for scene in scenes for text in scene.spanning]
    if spanning:
        total = sum(scene.instances for scene in scenes)
        _say(
            f"{root}: {len(spanning)} of the {total} instances looked at have points of several classes "
            f"(first: {spanning[0]}); each trains as its commonest class and counts in evaluation as "
            f"one instance of each; {number_apart(len(spanning), total)}"
        )
    return Annotation(zero_is_none=zero_is_none)


@functools.cache
def _say(text: str) -> None:
    """Once a process: training and validation read the same data set."""
    _logger.warning("%s", text)


def _look(folder: Path, labels: LabelSet) -> list[LabelledScene]:
    """Some scenes of a split, as far as they are annotated."""
    scenes = scene_folders(folder)
    chosen = scenes[:: max(1, -(-len(scenes) // LOOKED_AT))]
    found = [look_at_scene(scene, labels) for scene in chosen]
    return [scene for scene in found if scene is not None]


def look_at_scene(folder: Path, labels: LabelSet) -> LabelledScene | None:
    """What the annotation of one scene folder shows; None where there is none that can be read."""
    try:
        segment, instance = load_labels(folder, labels)
    except InputError:
        return None  # told where the scene is loaded, with what to do
    if segment is None or instance is None or segment.shape != instance.shape or not len(segment):
        return None
    ids, row = np.unique(instance, return_inverse=True)
    known = np.where((segment < 0) | (segment >= labels.num_classes), labels.num_classes, segment)
    columns = labels.num_classes + 1
    counts = np.bincount(row * columns + known, minlength=len(ids) * columns).reshape(len(ids), columns)
    mixed = None
    if 0 in ids:
        of_zero = counts[ids == 0][0]
        mixed = bool(of_zero.max() <= (1 - MIXED) * of_zero.sum())
    things = counts[ids > 0][:, list(labels.thing_classes)]
    several = (things > 0).sum(axis=1) > 1
    texts = [
        _describe(folder, identity, row, labels)
        for identity, row in zip(ids[ids > 0][several], things[several], strict=True)
    ]
    instances = int(things.any(axis=1).sum())
    return LabelledScene(folder.name, bool(ids[0] < 0), mixed, instances, tuple(texts))


def number_apart(spanning: int, instances: int) -> str:
    """What to do about instances of several classes, of so many in all."""
    if spanning <= ANEW * instances:
        return "number them apart if they are not one object"
    return (
        "they seem to be numbered anew in each class: number them through, as by "
        "instance + 1000 · segment where both are ≥ 0"
    )


def _describe(folder: Path, identity: int, counts: np.ndarray, labels: LabelSet) -> str:
    order = [t for t in np.argsort(-counts, kind="stable") if counts[t]]
    names = [labels.class_names[labels.thing_classes[t]] for t in order]
    parts = [f"{counts[t]} points {name}" for t, name in zip(order, names, strict=True)]
    return f"{folder.name}, instance {identity}: {', '.join(parts)}"
