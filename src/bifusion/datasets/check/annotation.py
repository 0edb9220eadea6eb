"""Checks of a scene's annotation: classes and instances."""

from __future__ import annotations

from collections.abc import Iterator

from bifusion.data.annotation import look_at_scene
from bifusion.data.checks import check_labels
from bifusion.datasets.check.opened import Finding, OpenedScene, error, warning
from bifusion.types import InputError


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
    if not segments:
        yield warning(
            f"{path}: there are instances but no file of classes; expected segment20.npy, "
            "segment200.npy, or segment.npy and a labels.json in the data set's root"
        )
    for labels, file, segment in segments:
        if len(segment) != len(instance):
            continue  # told already
        looked_at = look_at_scene(scene.folder, labels)
        spanning = looked_at.spanning if looked_at else ()
        if spanning:
            yield warning(
                f"{path}: {len(spanning)} of {looked_at.instances if looked_at else 0} instances have "
                f"points of several classes of {file.name} (first: {spanning[0]}); expected one class: "
                "number them apart if they are not one object"
            )
