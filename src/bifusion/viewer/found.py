"""A scan that was searched for words, as the page shows it: words to choose from, none to be made up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.errors import InputError
from bifusion.inference.found import Found, Instances, Regions
from bifusion.inference.scan_files import SCENE, scan_files
from bifusion.untrusted.arrays import load_npy
from bifusion.untrusted.json_text import read_json
from bifusion.viewer.prediction import is_prediction, named_classes, read_cloud, show_prediction
from bifusion.viewer.scene import show_scene
from bifusion.viewer.shown_scan import (
    ShownMatch,
    ShownScan,
    ShownWord,
    segmentation,
)

AGAIN = "scan again"
MOST_MATCHES = 6
"""Regions of a word that the page lists."""


def show_with(scene: Path, prediction: Path | None = None) -> ShownScan:
    """A scene folder with what `bifusion predict` or `bifusion scan` wrote of it, or without.

    Raises InputError where the prediction is neither, cannot be read, or is of other points.
    """
    if prediction is None:
        return show_scene(scene)
    if is_prediction(prediction):
        return show_prediction(prediction, scene)
    if scan_files(prediction):
        return _show_scan(scene, prediction)
    raise InputError(
        f"--prediction {prediction}: is nothing that `bifusion predict` or `bifusion scan` wrote; name "
        "a folder of theirs, or leave it out"
    )


def instances_of(shown: ShownScan) -> Instances | None:
    """The predicted objects of a shown scan; None without a prediction."""
    if shown.predicted is None:
        return None
    objects = shown.predicted.objects
    names = {one.id: shown.classes[one.label].name for one in objects if one.label >= 0}
    scores = {one.id: one.score for one in objects if one.score is not None}
    return Instances(shown.predicted.instance, names, scores)


def show_found(shown: ShownScan, found: Found) -> ShownScan:
    """The same with the words that were searched for and the regions that fit each best."""
    words = tuple(
        ShownWord(word, found.superpoints.similarity[:, number], _matches(found, number))
        for number, word in enumerate(found.words)
    )
    note = f"Words were searched for by {found.tower}; nothing was trained, no accuracy is claimed."
    return dataclasses.replace(
        shown, part=found.superpoints.of_point, words=words, notes=(*shown.notes, note)
    )


def _matches(found: Found, word: int) -> tuple[ShownMatch, ...]:
    """The best objects, or superpoints where there are no objects."""
    objects = found.objects
    regions = objects if objects is not None and len(objects.ids) else found.superpoints
    rows = regions.ranking(word)[:MOST_MATCHES].tolist()
    return tuple(_match(regions, row, word, found.offset_m, regions is objects) for row in rows)


def _match(regions: Regions, row: int, word: int, offset_m: np.ndarray, is_object: bool) -> ShownMatch:
    low, high = (tuple((corner[row] - offset_m).tolist()) for corner in (regions.low_m, regions.high_m))
    identity = int(regions.ids[row]) if is_object else None
    return ShownMatch(float(regions.similarity[row, word]), low, high, identity)


def _show_scan(scene: Path, scan: Path) -> ShownScan:
    """What `bifusion scan` found on the user's vertices, which are the first points of its scene."""
    shown = show_scene(scene)
    names, scores = _listed(scan / "objects.json")
    arrays = [load_npy(scan / f"{name}.npy", advice=AGAIN) for name in ("labels", "instances")]
    if any(array.ndim != 1 or array.dtype.kind != "i" or not len(array) for array in arrays):
        raise InputError(f"{scan}: its labels are no whole numbers, one a vertex; {AGAIN}")
    missing = len(shown.coord) - len(arrays[0])
    if missing < 0 or scene.resolve() != (scan / SCENE).resolve():
        raise InputError(
            f"{scan}: has {len(arrays[0])} vertices, the scene {scene} {len(shown.coord)} points; name "
            f"the scene that the scan was made of, {scan / SCENE}"
        )
    if arrays[0].shape != arrays[1].shape or not -1 <= arrays[0].min() <= arrays[0].max() < len(names):
        raise InputError(f"{scan}: its labels are not of its classes and vertices; {AGAIN}")
    semantic, instance = (np.pad(array, (0, missing), constant_values=-1) for array in arrays)
    classes = named_classes(names, read_cloud(scan / "classes.ply")[0])
    predicted = segmentation(shown.coord, semantic, instance, scores=scores)
    return dataclasses.replace(shown, classes=classes, predicted=predicted, annotated=None)


def _listed(path: Path) -> tuple[list[str], dict[int, float]]:
    """Names of the classes, and the score of each object by its id."""
    value: Any = read_json(path, advice=AGAIN)
    fields = value if isinstance(value, dict) else {}
    names, objects = fields.get("classes"), fields.get("objects")
    if not (
        isinstance(names, list)
        and isinstance(objects, list)
        and all(isinstance(name, str) for name in names)
        and all(map(_is_object, objects))
    ):
        raise InputError(f"{path}: holds no classes and objects with id and score; {AGAIN}")
    return names, {one["id"]: one["score"] for one in objects}


def _is_object(value: Any) -> bool:
    fields = value if isinstance(value, dict) else {}
    return type(fields.get("id")) is int and type(fields.get("score")) in (int, float)
