"""OneFormer3D's matcher, criterion and post-processing against the official code's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bifusion.labels.sets import SCANNET20
from bifusion.losses.context import CriterionConfig
from bifusion.losses.criterion import Criterion
from bifusion.models.postprocess import PostprocessConfig, postprocess
from bifusion.types import Batch, LayerPrediction, Prediction, Targets
from small_batches import batch_of_superpoints, layer_terms

OFFICIAL_WEIGHTS = {"instance_class": 0.5, "mask_bce": 1.0, "mask_dice": 1.0, "score": 0.5}
OFFICIAL_NAMES = {
    "instance_class": "classification",
    "mask_bce": "bce",
    "mask_dice": "dice",
    "score": "score",
}


def check_losses(path: Path) -> dict[str, float]:
    """Relative error of every number in the case; of `matches`, the pairs that differ."""
    expected = json.loads(path.with_name(f"{path.stem}.expected.json").read_text())
    criterion = Criterion(CriterionConfig(official_dice_scaling=True), SCANNET20)
    arrays = np.load(path)
    errors = {}
    for variant in ("with_score", "without_score"):
        prediction, batch = load_losses_case(arrays, with_score=variant == "with_score")
        found = _official_numbers(criterion, prediction, batch)
        wanted = dict(expected[variant])
        pairs = [{tuple(pair) for pair in scene} for scene in wanted.pop("matches")]
        matches = criterion.match(prediction, batch, [len(prediction.layers) - 1])[0]
        found_pairs = [set(zip(q.tolist(), g.tolist(), strict=True)) for q, g in matches]
        differing = [len(a ^ b) for a, b in zip(found_pairs, pairs, strict=True)]
        errors[f"{variant}.matches"] = float(sum(differing))
        assert found.keys() == wanted.keys(), f"{variant}: {sorted(found)} against {sorted(wanted)}"
        for name, value in wanted.items():
            errors[f"{variant}.{name}"] = _relative(found[name], value)
        semantic = criterion(prediction, batch)["semantic"].item()
        errors[f"{variant}.semantic"] = _relative(semantic, expected["semantic"])
    return errors


def _official_numbers(criterion: Criterion, prediction: Prediction, batch: Batch) -> dict[str, float]:
    """Terms and totals under the names of the case: summed over layers and for the last alone."""
    last_layer = layer_terms(criterion, prediction, batch, len(prediction.layers) - 1)
    summed = {name: value for name, value in criterion(prediction, batch).items() if name in last_layer}
    numbers = {}
    for terms, suffix in ((summed, ""), (last_layer, "_last_layer")):
        numbers |= {OFFICIAL_NAMES[name] + suffix: value.item() for name, value in terms.items()}
        total = sum(OFFICIAL_WEIGHTS[name] * value.item() for name, value in terms.items())
        numbers["official" + suffix] = total
    return numbers


def load_losses_case(arrays: np.lib.npyio.NpzFile, with_score: bool) -> tuple[Prediction, Batch]:
    """The prediction and annotation stored in a losses case."""
    num_scenes = len({key.split(".")[0] for key in arrays})
    num_layers = len([key for key in arrays if key.startswith("0.class_logits.")])
    scenes = range(num_scenes)

    def read(name: str) -> list[Tensor]:
        return [torch.from_numpy(arrays[f"{b}.{name}"]) for b in scenes]

    layers = [
        LayerPrediction(
            class_logits=read(f"class_logits.{i}"),
            mask_logits=read(f"mask_logits.{i}"),
            scores=read(f"scores.{i}") if with_score else None,
        )
        for i in range(num_layers)
    ]
    targets = [
        Targets(semantic, masks, labels)
        for semantic, masks, labels in zip(
            read("semantic"), read("gt_masks"), read("gt_labels"), strict=True
        )
    ]
    sizes = [len(target.semantic) for target in targets]
    prediction = Prediction(
        layers=layers,
        semantic_logits=read("semantic_logits"),
        query_superpoints=read("query_ids"),
        superpoint_features=torch.zeros(sum(sizes), 1),
    )
    return prediction, batch_of_superpoints([torch.arange(n) for n in sizes], targets)


def check_postprocess(path: Path) -> dict[str, float]:
    """Entries that differ from the official result; of the scores, the largest relative error."""
    arrays = np.load(path)
    result = postprocess(
        Prediction(
            layers=[
                LayerPrediction(
                    class_logits=[torch.from_numpy(arrays["class_logits"])],
                    mask_logits=[torch.from_numpy(arrays["mask_logits"])],
                )
            ],
            semantic_logits=[torch.from_numpy(arrays["semantic_logits"])],
            query_superpoints=[torch.arange(len(arrays["class_logits"]))],
            superpoint_features=torch.zeros(len(arrays["class_logits"]), 1),
        ),
        batch_of_superpoints([torch.from_numpy(arrays["superpoints"])]),
        SCANNET20,
        PostprocessConfig(),
    )[0]
    # the official code numbers confident instances upwards from the worst, after the stuff classes
    stuff = len(SCANNET20.stuff_classes)
    confident = int((result.scores > PostprocessConfig().panoptic_score_threshold).sum())
    official_id = np.where(
        result.panoptic_instance >= 0,
        confident - 1 - result.panoptic_instance + stuff,
        result.panoptic_semantic,
    )
    things = np.array(SCANNET20.thing_classes)
    return {
        "masks": _differing(result.masks, arrays["expected_masks"]),
        "labels": _differing(result.labels, things[arrays["expected_labels"]]),
        "scores": _relative_max(result.scores, arrays["expected_scores"]),
        "semantic": _differing(result.semantic, arrays["expected_semantic"]),
        "panoptic_semantic": _differing(result.panoptic_semantic, arrays["expected_panoptic_semantic"]),
        "panoptic_instance": _differing(official_id, arrays["expected_panoptic_instance"]),
    }


def _relative(found: float, expected: float) -> float:
    return abs(found - expected) / max(abs(expected), 1e-12)


def _relative_max(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float((np.abs(found - expected) / np.abs(expected)).max(initial=0.0))


def _differing(found: np.ndarray, expected: np.ndarray) -> float:
    """Number of entries that differ, infinite where the shapes do."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found != expected).sum())
