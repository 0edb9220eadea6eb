"""Checks of a scene's annotation: classes and instances."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bifusion.data.annotation import LabelledScene, look_at_scene, number_apart
from bifusion.datasets.check.opened import Finding, OpenedScene, error, warning
from bifusion.errors import InputError
from bifusion.labels.label_set import check_labels


def classes(scene: OpenedScene) -> Iterator[Finding]:
    """Labels that are no class of their set; scenes without a labelled point."""
    for labels, path, segment in scene.segments():
        try:
            check_labels(segment, labels, path)
        except InputError as problem:
            yield error(problem)
            continue
        if not (segment >= 0).any():
            yield warning(
                f"{path}: no point has a class; expected some of {labels.describe()}: leave the scene "
                "out of the split, or remove the file where it is not annotated"
            )


def instances(scene: OpenedScene) -> Iterator[Finding]:
    """Instances below −1, without classes, or of several classes."""
    instance = scene.arrays.get("instance")
    if instance is None:
        return
    path = scene.folder / "instance.npy"
    if instance.min() < -1:
        yield error(f"{path}: instance id {int(instance.min())} found; expected ids ≥ 0, or -1 for none")
    segments = list(scene.segments())
    if not segments and not any(scene.folder.glob("segment*.npy")):  # one not read is told elsewhere
        yield warning(
            f"{path}: there are instances but no file of classes; expected segment20.npy, "
            "segment200.npy, or segment.npy and a labels.json in the data set's root"
        )
    for labels, file, segment in segments:
        if len(segment) == len(instance):
            yield from _spanning(scene.folder, path, file.name, look_at_scene(scene.folder, labels))


def _spanning(folder: Path, path: Path, classes: str, seen: LabelledScene | None) -> Iterator[Finding]:
    """Instances of several classes, which are mostly several objects."""
    if seen is None:
        return
    spanning = list(seen.spanning)
    if seen.has_negative and seen.zero_is_mixed:  # where nothing is negative, 0 may stand for none
        spanning.append(f"{folder.name}, instance 0")
    if spanning:
        yield warning(
            f"{path}: {len(spanning)} instances have points of several classes of {classes} (first: "
            f"{spanning[0]}); expected one class: {number_apart(len(spanning), seen.instances)}"
        )
