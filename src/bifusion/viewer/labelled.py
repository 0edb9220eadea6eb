"""A labelled scan as the page shows it: upright, with what was found out of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bifusion.inference.labelled import LabelledScan
from bifusion.viewer.scene import show_scene
from bifusion.viewer.shown_scan import ShownScan, segmentation, shown_classes


def show_labelled(labelled: LabelledScan, scene_folder: Path) -> ShownScan:
    """All points of the scene, with its folder's pictures and cameras; InputError as `show_scene`."""
    said, made = labelled.segmentation, labelled.made
    shown = show_scene(scene_folder, said.labels.class_names)
    scores = {one.id: one.score for one in labelled.objects}
    labels_of_objects = said.classes[said.instances] if len(said.classes) else said.semantic
    predicted = segmentation(
        shown.coord, said.semantic, said.instances, labels_of_objects=labels_of_objects, scores=scores
    )
    faces = made.mesh.faces  # of the first points, which are the user's
    return dataclasses.replace(
        shown,
        name=made.scene.name,
        classes=shown_classes(said.labels),
        predicted=predicted,
        faces=faces if len(faces) else None,
        notes=(*labelled.warnings, *shown.notes, *made.lines),
    )
