"""One pass over the validation scenes, while training and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from bifusion.config.run import Config
from bifusion.data.dataset import SceneDataset
from bifusion.data.loader import EpochLoader, make_loader
from bifusion.evaluation.evaluator import Evaluator
from bifusion.evaluation.fusion_figures import FusionFigures
from bifusion.evaluation.semantic import SemanticConfusion
from bifusion.geometry import find_sightings
from bifusion.labels.label_set import LabelSet
from bifusion.types import Batch, FusionControl, SceneResult, SceneTruth

PICTURED_SCENES = 2
VALIDATION_CACHE_MB = 128
"""Decoded validation scenes kept in memory at most, by each process that loads."""


class SeenSplit:
    """Semantic figures of the points that at least one view sees, and of those that none does."""

    def __init__(self, label_set: LabelSet):
        self._seen = SemanticConfusion(label_set)
        self._unseen = SemanticConfusion(label_set)

    def add(self, result: SceneResult, truth: SceneTruth, seen: np.ndarray) -> None:
        """`seen`: (N,) bool, the points of the scene that at least one view sees."""
        if result.semantic is not None:
            self._seen.add(result.semantic, truth.semantic, where=seen)
            self._unseen.add(result.semantic, truth.semantic, where=~seen)

    def compute(self) -> dict[str, dict[str, Any]]:
        """{"seen": {"miou", "iou"}, "unseen": …}."""
        parts = {"seen": self._seen.compute(), "unseen": self._unseen.compute()}
        return {name: {key: part[key] for key in ("miou", "iou")} for name, part in parts.items()}


@dataclasses.dataclass
class Validation:
    """Outcome of one pass over the validation scenes."""

    metrics: dict[str, Any]
    """`Evaluator.compute`, and `FusionFigures.compute` ("fusion_2d_ratio", "alignment", …)."""
    split: dict[str, dict[str, Any]]
    """"seen" and "unseen" points, `SeenSplit.compute`."""
    first_results: list[SceneResult]
    """Of the first scenes, for pictures."""
    first_truths: list[SceneTruth]
    """Their annotation."""


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: Iterable[Batch],
    config: Config,
    control: FusionControl,
    *,
    device: torch.device | str = "cpu",
) -> Validation:
    """Evaluates `model` (its own mode is restored after) on every batch of annotated scenes.

    `control` says how the fusion acts. Points count, not voxels. Nothing of a batch is kept.
    """
    scenes = _Counted(config)
    was_training = model.training
    model.eval()
    try:
        for batch in loader:
            scenes.add(model, batch, control, device)
    finally:
        model.train(was_training)
    return scenes.outcome()


class _Counted:
    """The scenes counted so far.

    What a model says about a batch (hundreds of MB of mask logits in a large scene) lives in `add`
    alone: it is gone before the next batch is predicted.
    """

    def __init__(self, config: Config):
        self.config = config
        self.label_set = config.labels
        self.evaluator, self.fusion = Evaluator(self.label_set), FusionFigures(config.seed)
        self.split = SeenSplit(self.label_set)
        self.first_results: list[SceneResult] = []
        self.first_truths: list[SceneTruth] = []

    def add(
        self, model: nn.Module, batch: Batch, control: FusionControl, device: torch.device | str
    ) -> None:
        """Predicts and counts one batch; scenes without annotation have nothing to count."""
        truths = batch.truths
        if truths is None:
            return
        batch = batch.to(device)
        prediction = model(batch, control)
        results = self.config.postprocess.results(prediction, batch, self.label_set)
        if prediction.fusion is not None:
            self.fusion.add(prediction.fusion, batch)
        seen = seen_points(batch, self.config)
        for result, truth, seen_here in zip(results, truths, seen, strict=True):
            self.evaluator.add(result, truth)
            self.split.add(result, truth, seen_here)
        wanted = PICTURED_SCENES - len(self.first_results)
        self.first_results += results[:wanted]
        self.first_truths += truths[:wanted]

    def outcome(self) -> Validation:
        metrics = {**self.evaluator.compute(), **self.fusion.compute()}
        return Validation(metrics, self.split.compute(), self.first_results, self.first_truths)


def seen_points(batch: Batch, config: Config) -> list[np.ndarray]:
    """(N_b,) bool a scene: points whose voxel at least one view of the batch sees.

    Found from the cameras alone, so that models that read no images are split the same way.
    """
    scene = batch.voxel_coords[:, 0]
    sightings = find_sightings(
        batch.voxel_position_m, scene, batch.views, config.model.occlusion, batch.voxels_per_scene
    )
    points = sightings.seen.index_select(0, batch.point_to_voxel)
    return [part.cpu().numpy() for part in points.split(batch.points_per_scene)]


def validation_loader(config: Config, *, max_views: int) -> EpochLoader:
    """Batches of one annotated validation scene each, in order, with up to `max_views` views."""
    cache_mb = min(config.data.cache_mb, VALIDATION_CACHE_MB)
    data = dataclasses.replace(config.data, max_views=max_views, cache_mb=cache_mb)
    dataset = SceneDataset(data, "val", config.seed, training=False)
    return make_loader(
        dataset,
        epoch=0,
        batch_size=1,
        workers=config.trainer.workers,
        shuffle=False,
        seed=config.seed,
    )


def validation_record(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures of a validation that epochs.jsonl keeps."""
    keys = ("miou", "ap", "ap50", "ap25", "pq", "fusion_2d_ratio", "share_2d", "seen_share", "iou")
    return {key: metrics[key] for key in (*keys, "alignment")}
