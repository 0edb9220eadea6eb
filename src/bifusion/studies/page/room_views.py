"""Pages to look around in what each arm made of a room, beside a study's report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bifusion.studies.figures.arms import Arm
from bifusion.studies.page.pictures import AGAIN, known_classes, load_prediction, predicted_rooms
from bifusion.untrusted.arrays import load_npz
from bifusion.viewer.page import write_view
from bifusion.viewer.shown_scan import ShownScan, segmentation, shown_classes

FOLDER = "views"

RoomViews = Mapping[tuple[str, str], str]
"""(scene, key of an arm) → the page, as a report beside its folder links to it."""


def write_room_views(arms: list[Arm], out: Path) -> RoomViews:
    """Writes out/views/ROOM-ARM.html for each room that runs left predictions of; none where an arm
    found nothing in it, as there is no picture of that either.

    InputError for a prediction file that cannot be read.
    """
    links = {}
    for number, (scene, found) in enumerate(predicted_rooms(arms).items()):
        for place, (arm, path) in enumerate(found):
            shown = _show(scene, arm, path)
            if shown.predicted is None:
                continue
            # Numbers keep names apart that are alike once what no file may be called is gone.
            name = f"{FOLDER}/{number}-{_plain(scene)}-{place}-{_plain(arm.label)}.html"
            write_view(out / name, shown)
            links[scene, arm.key] = name
    return links


def _show(scene: str, arm: Arm, path: Path) -> ShownScan:
    data, labels = load_prediction(path), arm.first.labels
    coord, none = data["coord"], np.full(len(data["coord"]), -1)
    known = {
        key: known_classes(data[key], labels) for key in ("semantic", "truth_semantic") if key in data
    }
    instance = data.get("panoptic_instance", none)
    predicted = None
    if "semantic" in known or "panoptic_instance" in data:
        predicted = segmentation(coord, known.get("semantic", none), instance, scores=_scores(path))
    return ShownScan(
        name=f"{scene} · {arm.label}",
        coord=coord,
        color=data["color"],
        classes=shown_classes(labels),
        predicted=predicted,
        annotated=segmentation(coord, known["truth_semantic"], data["truth_instance"]),
    )


def _scores(path: Path) -> dict[int, float]:
    """By instance; none in files of versions that did not keep them."""
    found = load_npz(path, keys=("instance_scores",), advice=AGAIN)
    scores = found.get("instance_scores", np.zeros(0))
    return dict(enumerate(scores.tolist()))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:60]
