"""Says so where the views of a scene do not fit its points: a model that sees them would go by them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from bifusion.data.scan_agreement import judge_views, look_at_some
from bifusion.data.scene_folder import load_cameras
from bifusion.data.scene_source import OneScene, OutsideScenes, SceneFolders
from bifusion.data.view_agreement import ViewAgreementConfig

MOST_COMPARED = 4
"""Views, evenly spaced, that are compared with the points."""

_logger = logging.getLogger("bifusion.predict")


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
