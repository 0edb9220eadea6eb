"""Classes of a data set's own that none of its training scenes shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bifusion.datasets.check.opened import Finding, OpenedScene, warning
from bifusion.errors import listing
from bifusion.labels.label_set import LabelSet


def shown_classes(scene: OpenedScene) -> dict[str, frozenset[int]]:
    """The classes that points of a scene have, by label set."""
    return {
        labels.name: frozenset(np.unique(segment).tolist()) for labels, _, segment in scene.segments()
    }


def unseen_classes(
    labels: LabelSet, train: Path, shown: Iterable[dict[str, frozenset[int]]]
) -> Iterator[Finding]:
    """What is to be said where no training scene has a point of some class.

    Args:
        labels: the data set's own classes.
        train: the folder of its training scenes, to name.
        shown: `shown_classes` of those scenes.
    """
    of_scenes = [classes[labels.name] for classes in shown if labels.name in classes]
    seen = frozenset().union(*of_scenes)
    if not any(index >= 0 for index in seen):
        return  # each scene has been told to have no class at all
    missing = [index for index in range(labels.num_classes) if index not in seen]
    if not missing:
        return
    names = listing([f"{labels.class_names[index]} ({index})" for index in missing])
    advice = "annotate some, or leave them out of the table"
    classes = [index for index in seen if index >= 0]
    if missing[0] == 0 and max(classes) == labels.num_classes:
        advice += f"; labels count from 0, {labels.class_names[0]}: subtract 1 if yours count from 1"
    elif missing[0] == 0 and set(classes) <= set(labels.source_ids):
        advice += (
            "; all labels found are ids of classes: if they are meant, replace each by its position"
        )
    yield warning(
        f"{train}: no point is of {len(missing)} of the {labels.num_classes} classes of {labels.name}: "
        f"{names}; expected some of each, as a model does not find what it was never shown: {advice}"
    )
