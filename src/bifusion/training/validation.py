"""One pass over the validation scenes, while training and after, by one process or several.

Each process counts every n-th scene. What a scene adds is kept apart and added up in the order of the
scenes, by one process too, so that the figures are the same to the last digit however many there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from bifusion.config.run import Config
from bifusion.data.dataset import SceneDataset
from bifusion.data.loader import EpochLoader, make_loader
from bifusion.device_memory import MEMORY_ERRORS, refuse_if_full
from bifusion.evaluation.evaluator import Evaluator
from bifusion.evaluation.fusion_figures import FusionFigures
from bifusion.evaluation.point_figures import PointFigures
from bifusion.training.processes import group
from bifusion.types import Batch, FusionControl, SceneResult, SceneTruth

PICTURED_SCENES = 2
VALIDATION_CACHE_MB = 128
"""Decoded validation scenes kept in memory at most, by each process that loads."""


@dataclasses.dataclass
class Validation:
    """Outcome of one pass over the validation scenes."""

    metrics: dict[str, Any]
    """`Evaluator.compute`, and `FusionFigures.compute` ("fusion_2d_ratio", "alignment", …)."""
    points: PointFigures | None
    """Where they were asked for."""
    first_results: list[SceneResult]
    """Of the first scenes, for pictures."""
    first_truths: list[SceneTruth]
    """Their annotation."""
    nan: list[str]
    """Scenes on which the model answered with what is no number, so that figures say nothing."""


class Counted:
    """What scenes add to the figures: one, or all so far."""

    def __init__(self, config: Config, *, by_point: bool = False):
        self.evaluator, self.fusion = Evaluator(config.labels), FusionFigures(config.seed)
        self.points = PointFigures(config.labels) if by_point else None
        self.first_results: list[SceneResult] = []
        self.first_truths: list[SceneTruth] = []
        self.nan: list[str] = []

    def add(
        self,
        config: Config,
        model: nn.Module,
        batch: Batch,
        control: FusionControl,
        device: torch.device | str,
        *,
        pictured: bool,
        right_without: Mapping[str, np.ndarray],
    ) -> None:
        """Predicts and counts one batch; scenes without annotation have nothing to count.

        What a model says about a batch (hundreds of MB of mask logits in a large scene) lives here
        alone: it is gone before the next batch is predicted. `pictured`: its results are kept.
        `right_without`: `PointFigures.right` of the same scenes with the views withheld, where known.
        """
        truths = batch.truths
        if truths is None:
            return
        batch = batch.to(device)
        prediction = model(batch, control)
        flawed = prediction.answers_with_nan()
        results, trace = config.postprocess.results(prediction, batch, config.labels), prediction.fusion
        pairs = zip(results, truths, strict=True)
        covered = [self.evaluator.add(result, truth) for result, truth in pairs]
        if trace is not None:
            self.fusion.add(trace, batch)
        if self.points is not None:
            self.points.add(
                batch,
                results,
                truths,
                covered,
                trace,
                occlusion=config.model.occlusion,
                right_without=right_without,
            )
        if pictured:
            self.first_results, self.first_truths = results, truths
        if flawed:  # asked last: a GPU is not waited for before it has its work
            self.nan += batch.names

    def merge(self, other: Counted) -> None:
        """Adds what another one has counted, after what is there."""
        self.evaluator.merge(other.evaluator)
        self.fusion.merge(other.fusion)
        if self.points is not None and other.points is not None:
            self.points.merge(other.points)
        self.nan += other.nan
        wanted = PICTURED_SCENES - len(self.first_results)
        self.first_results += other.first_results[:wanted]
        self.first_truths += other.first_truths[:wanted]

    def outcome(self) -> Validation:
        """The figures of what was counted."""
        metrics = {**self.evaluator.compute(), **self.fusion.compute()}
        return Validation(metrics, self.points, self.first_results, self.first_truths, self.nan)


class CountedShare:
    """What this process's scenes add, to be added up with those of the others."""

    def __init__(self, config: Config, by_point: bool, right_without: Mapping[str, np.ndarray]):
        self._config, self._by_point, self._right_without = config, by_point, right_without
        self._alone = self._nothing() if group.count() == 1 else None
        self._pieces = group.Pieces()
        self._pictured = 0

    def _nothing(self) -> Counted:
        return Counted(self._config, by_point=self._by_point)

    def add(
        self,
        place: int,
        model: nn.Module,
        batch: Batch,
        control: FusionControl,
        device: torch.device | str,
    ) -> None:
        """Counts the batch at `place` among all."""
        piece = self._nothing()
        piece.add(
            self._config,
            model,
            batch,
            control,
            device,
            pictured=self._pictured < PICTURED_SCENES,
            right_without=self._right_without,
        )
        self._pictured += len(piece.first_results)
        if self._alone is not None:
            self._alone.merge(piece)
        else:
            self._pieces.add(place, piece)

    def outcome(self) -> Validation:
        """The figures of all scenes, on all processes; all of them must call it."""
        whole = self._alone
        if whole is None:
            whole = self._nothing()
            for piece in self._pieces.in_order():
                whole.merge(piece)
        return whole.outcome()


@torch.no_grad()
def count_share(
    model: nn.Module,
    loader: EpochLoader,
    config: Config,
    control: FusionControl,
    *,
    device: torch.device | str = "cpu",
    at: Callable[[str], None] = lambda what: None,
    by_point: bool = False,
    right_without: Mapping[str, np.ndarray] | None = None,
) -> CountedShare:
    """Predicts and counts this process's share of the batches of annotated scenes, point by point; their
    figures are its `outcome()`. Nothing of a batch is kept.

    `control` says how the fusion acts. The mode of `model` is restored after. `at` is called with what
    is being done. `by_point`: `PointFigures` are counted too; `right_without`: `right` of theirs, of
    these scenes with the views withheld.
    """
    share, places = CountedShare(config, by_point, right_without or {}), group.own_share(loader.batches)
    mine = EpochLoader(loader.dataset, list(places.values()), loader.workers)
    was_training = model.training
    model.eval()
    try:
        for place, batch in zip(places, mine, strict=True):
            at(f"validating {', '.join(batch.names)}")
            try:
                share.add(place, model, batch, control, device)
            except MEMORY_ERRORS as error:
                refuse_if_full(error, batch)
                raise
    finally:
        model.train(was_training)
    return share


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
