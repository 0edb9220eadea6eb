"""Says so where a scene's points are in another unit or lie on their side, as a model cannot know, and
where its views do not fit them: a model that sees them would go by them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from bifusion.data.scan_agreement import judge_views, look_at_some
from bifusion.data.scene_source import OneScene, OutsideScenes, SceneFolders
from bifusion.data.view_agreement import ViewAgreementConfig
from bifusion.data.view_files import load_cameras
from bifusion.datasets.scene_notes import scene_notes
from bifusion.types import Scene

MOST_COMPARED = 4
"""Views, evenly spaced, that are compared with the points."""

_logger = logging.getLogger("bifusion.predict")


def warn_of_points(where: str, scene: Scene, *, unit_stated: bool = False) -> None:
    """Warns, naming the likely cause, of points that are not metres with z up.

    `unit_stated`: somebody said their unit, so that it is not guessed at.
    """
    normal = None if scene.normal is None else np.asarray(scene.normal)
    for note in scene_notes(np.asarray(scene.coord), normal, unit_stated=unit_stated):
        _logger.warning("%s: %s", where, note)


def warn_of_views(
    where: str, scenes: SceneFolders | OutsideScenes | OneScene, name: str, config: ViewAgreementConfig
) -> None:
    """Warns, naming the likely cause, of views of the scene `name` that contradict its points.

    `where`: what the warnings call the scene; the folder of one that lies in a folder of ours.
    """
    scene = scenes.scene(name)
    if not config.check or not scene.view_names:
        return
    cameras = load_cameras(Path(where)) if isinstance(scenes, SceneFolders) else None
    looked = look_at_some(
        scene.view_names, lambda view: scenes.view(scene.name, view), cameras, MOST_COMPARED
    )
    for finding in judge_views(np.asarray(scene.coord), np.asarray(scene.color), looked, config):
        _logger.warning("%s: %s", where, finding.message)
