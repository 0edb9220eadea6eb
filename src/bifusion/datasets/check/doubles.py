"""Scenes that are one and the same, by their points or by their name."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bifusion.datasets.check.opened import Finding, OpenedScene, error, warning
from bifusion.errors import listing
from bifusion.wording import plural

STEP_M = 0.001
"""Points are compared to the millimetre, in any order."""


def fingerprint(scene: OpenedScene) -> str | None:
    """The same for scenes of the same points, whatever their order; None where they cannot be read."""
    coord = scene.arrays.get("coord")
    if coord is None or not np.isfinite(coord).all():
        return None
    steps = np.round(np.asarray(coord, np.float64) / STEP_M).astype(np.int64)
    ordered = steps[np.lexsort(steps.T)]
    return hashlib.sha256(ordered.tobytes()).hexdigest()


def room_of(scene: str) -> str:
    """The room that a scan shows: ScanNet's sceneNNNN_00, sceneNNNN_01 … are scans of one room."""
    return re.sub(r"^(scene\d{4})_\d{2}$", r"\1", scene)


def why_leaking(train: Iterable[str], validation: Iterable[str], copies: Iterable[str]) -> str | None:
    """Why figures on the scenes of `validation` say nothing about new ones, or None: by their names some
    show rooms of `train`, or some are `copies`, as `copies_of_training` tells them."""
    rooms = set(map(room_of, train))
    shared = sorted(scene for scene in set(validation) if room_of(scene) in rooms)
    copies = list(dict.fromkeys(copies))
    if shared:
        what = f"{plural(len(shared), 'scene')} used both in training and in validation"
    elif copies:
        what = f"{plural(len(copies), 'scene')} of training in validation under another name"
    else:
        return None
    named = listing(shared or copies, 3)
    return f"{what} ({named}): figures on them say nothing about new scenes."


def copies_of_training(points: Mapping[str, str | None]) -> list[str]:
    """ "val/ONE is train/OTHER" for scenes of the same sum in `points` ("SPLIT/NAME" → sum of the file
    of points, None where there is none): copies of a folder and links to it have other names."""
    trained = {sha256: scene for scene, sha256 in points.items() if scene.startswith("train/")}
    return [
        f"{scene} is {trained[sha256]}"
        for scene, sha256 in points.items()
        if scene.startswith("val/") and sha256 is not None and sha256 in trained
    ]


def doubles(scenes: Sequence[tuple[Path, str | None]]) -> Iterator[tuple[int, Finding]]:
    """What is wrong with scenes, given by folder and fingerprint, because of earlier ones: their numbers
    and findings."""
    by_points, by_room = defaultdict[str, list[Path]](list), defaultdict[str, list[Path]](list)
    for number, (folder, points) in enumerate(scenes):
        found = _beside(folder, by_points[points] if points else [], by_room[room_of(folder.name)])
        if found:
            yield number, found
        if points:
            by_points[points].append(folder)
        by_room[room_of(folder.name)].append(folder)


def _beside(folder: Path, same: Sequence[Path], room: Sequence[Path]) -> Finding | None:
    """What is wrong with a scene beside earlier ones of the same points, and of its room by name."""
    elsewhere = [other for other in same if other.parent != folder.parent]
    if elsewhere:
        return error(
            f"{folder}: has the same points as {elsewhere[0]}, of another split; expected scenes that "
            "training has not seen: remove it from one of them"
        )
    if same:
        return warning(
            f"{folder}: has the same points as {same[0]}; expected each scene once: remove one"
        )
    others = [other for other in room if other.parent != folder.parent]
    if others:
        return warning(
            f"{folder}: is by its name a scan of the same room as {others[0]}, of another split; "
            "comparisons refuse such splits: move it to that split"
        )
    return None
