"""Our evaluators against figures computed by the official ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.evaluation.evaluator import Evaluator
from bifusion.labels.sets import SCANNET20
from bifusion.types import SceneResult, SceneTruth


def check_evaluation(path: Path) -> dict[str, float]:
    """Absolute error of each figure of `scannet_eval.caseNN.npz` (infinite where one side is NaN).

    The expected figures lie beside it in `scannet_eval.caseNN.expected.json`.
    """
    expected = json.loads(path.with_name(path.name.replace(".npz", ".expected.json")).read_text())
    figures = {}
    for min_region in (100, 1):
        evaluator = Evaluator(SCANNET20, panoptic_min_region=min_region)
        with np.load(path) as case:
            for scene in sorted({name.split(".")[0] for name in case.files}, key=int):
                evaluator.add(*_read_scene(case, scene))
        ours = evaluator.compute()
        panoptic = expected.pop(f"panoptic_min{min_region}")
        panoptic["panoptic_miou"] = panoptic.pop("miou")
        figures |= _errors(panoptic, ours, f"panoptic_min{min_region}.")
    return figures | _errors(expected, ours, "")


def _read_scene(case: Any, scene: str) -> tuple[SceneResult, SceneTruth]:
    semantic = case[f"{scene}.pred_semantic"]
    result = SceneResult(
        name=scene,
        num_points=len(semantic),
        masks=case[f"{scene}.pred_masks"],
        labels=case[f"{scene}.pred_labels"],
        scores=case[f"{scene}.pred_scores"],
        semantic=semantic,
        panoptic_semantic=semantic,
        panoptic_instance=case[f"{scene}.pred_panoptic_instance"],
    )
    return result, SceneTruth(scene, case[f"{scene}.gt_semantic"], case[f"{scene}.gt_instance"])


def _errors(expected: Any, found: Any, name: str) -> dict[str, float]:
    """Absolute difference of every number below `expected`, by its dotted name."""
    if isinstance(expected, dict):
        # The files write class names without spaces.
        found = {key.replace(" ", ""): value for key, value in found.items()}
        parts = [_errors(value, found[key], f"{name}{key}.") for key, value in expected.items()]
        return {key: error for part in parts for key, error in part.items()}
    if isinstance(expected, list):
        pairs = zip(expected, found, strict=True)
        return {
            key: error
            for index, (want, have) in enumerate(pairs)
            for key, error in _errors(want, have, f"{name}{index}.").items()
        }
    if math.isnan(expected) or math.isnan(found):
        return {name.rstrip("."): 0.0 if math.isnan(expected) and math.isnan(found) else math.inf}
    return {name.rstrip("."): abs(expected - found)}
