"""Validation while training, and the full evaluation of a run's last checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bifusion.checkpoint import TRAINING_STATE, find_checkpoint, load_model, trained_epochs
from bifusion.config import Config
from bifusion.data.dataset import SceneDataset
from bifusion.data.loader import EpochLoader, make_loader
from bifusion.data.scene_folder import load_scene
from bifusion.evaluation.evaluator import Evaluator
from bifusion.evaluation.semantic import SemanticConfusion
from bifusion.export import point_segments
from bifusion.files import written_beside
from bifusion.geometry import LiftingConfig, find_sightings
from bifusion.labels import LabelSet, get_label_set
from bifusion.models.bifusion import BiFusionConfig
from bifusion.models.postprocess_mask3d import scene_results
from bifusion.training.fusion_figures import FusionFigures
from bifusion.training.run_folder import RunFolder, write_json
from bifusion.training.stages import Timeline
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
        self.label_set = get_label_set(config.data.label_set)
        self.evaluator, self.fusion = Evaluator(self.label_set), FusionFigures(config.seed)
        self.split = SeenSplit(self.label_set)
        self.first_results: list[SceneResult] = []

    def add(
        self, model: nn.Module, batch: Batch, control: FusionControl, device: torch.device | str
    ) -> None:
        """Predicts and counts one batch; scenes without annotation have nothing to count."""
        truths = batch.truths
        if truths is None:
            return
        batch = batch.to(device)
        prediction = model(batch, control)
        results = scene_results(prediction, batch, self.label_set, self.config.postprocess)
        if prediction.fusion is not None:
            self.fusion.add(prediction.fusion, batch)
        seen = seen_points(batch, self.config)
        for result, truth, seen_here in zip(results, truths, seen, strict=True):
            self.evaluator.add(result, truth)
            self.split.add(result, truth, seen_here)
        self.first_results += results[: PICTURED_SCENES - len(self.first_results)]

    def outcome(self) -> Validation:
        metrics = {**self.evaluator.compute(), **self.fusion.compute()}
        return Validation(metrics, self.split.compute(), self.first_results)


def seen_points(batch: Batch, config: Config) -> list[np.ndarray]:
    """(N_b,) bool a scene: points whose voxel at least one view of the batch sees.

    Found from the cameras alone, so that models that read no images are split the same way.
    """
    lifting = config.model.lifting if isinstance(config.model, BiFusionConfig) else LiftingConfig()
    scene = batch.voxel_coords[:, 0]
    sightings = find_sightings(batch.voxel_position_m, scene, batch.views, lifting)
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


def evaluate_run(
    run_dir: Path, *, data: Path | None = None, device: torch.device | str | None = None
) -> dict[str, Any]:
    """Full evaluation of a run's last checkpoint on its validation scenes; writes evaluation.json.

    Beside the metrics as trained: with the views withheld and with the lifted features shuffled
    among the points (for models that use views), points seen and not seen apart, and the alignment
    at the start and end of every stage. Writes predictions/ of two scenes for pictures.

    `data`: a data set other than the one it was trained on. Its figures go to
    evaluation-NAME.json, without pictures: evaluation.json is what comparisons read as the run's
    result. (An imported checkpoint was trained on none of ours; its own result is on `data`.)
    """
    folder = RunFolder(run_dir)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint = find_checkpoint(folder.root)
    model, config = load_model(checkpoint, device)
    target = folder.evaluation
    if data is not None:
        trained_here = (checkpoint / TRAINING_STATE).is_file()
        if trained_here and data.resolve() != config.data.root.resolve():
            target = folder.root / f"evaluation-{data.resolve().name}.json"
        config.data.root = data
    time = trained_epochs(checkpoint, config)
    control = Timeline(config.stages, config.trainer.epochs).at_end(time).control
    views = config.data.max_views or config.trainer.evaluation_views

    def run(**changes: Any) -> Validation:
        loader = validation_loader(config, max_views=views)
        return validate(model, loader, config, dataclasses.replace(control, **changes), device=device)

    full = run()
    evaluation = {
        "epoch": max(math.ceil(time) - 1, 0),
        "full": full.metrics,
        "views_withheld": run(withhold_views=True).metrics if config.uses_views else None,
        "shuffled_2d": run(shuffle_seed=config.seed).metrics if config.uses_views else None,
        **full.split,
        "alignment_by_stage": alignment_by_stage(folder),
    }
    write_json(target, evaluation)
    if target == folder.evaluation:
        write_predictions(folder, config, full.first_results)
    return evaluation


def alignment_by_stage(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Alignment at the start and end of every stage, from the validations of epochs.jsonl.

    The start is the last validation before the stage (the first stage: the first in it), the end
    the last one in it; None where none was made.
    """
    measured = [
        (record["epoch"], record["val"]["alignment"])
        for record in folder.read_lines(folder.epochs)
        if record.get("val") is not None
    ]
    table = {}
    for stage in folder.read_stages():
        before = [alignment for epoch, alignment in measured if epoch < stage.first_epoch]
        within = [
            alignment for epoch, alignment in measured if stage.first_epoch <= epoch < stage.end_epoch
        ]
        start = before[-1] if before else (within[0] if within else None)
        table[stage.name] = {"start": start, "end": within[-1] if within else None}
    return table


def write_predictions(folder: RunFolder, config: Config, results: list[SceneResult]) -> None:
    """predictions/SCENE.npz: points, annotation and prediction of each scene."""
    for result in results:
        scene = load_scene(config.data.root / "val" / result.name, config.data.label_set)
        none = np.full(result.num_points, -1, dtype=np.int32)
        arrays = {
            "coord": np.asarray(scene.coord, dtype=np.float32),
            "color": np.asarray(scene.color, dtype=np.uint8),
            "truth_semantic": none if scene.segment is None else np.asarray(scene.segment),
            "truth_instance": none if scene.instance is None else np.asarray(scene.instance),
            "semantic": none if result.semantic is None else result.semantic,
            "panoptic_instance": point_segments(result)[1],
        }
        path = folder.predictions / f"{result.name}.npz"
        with written_beside(path) as beside, open(beside, "wb") as file:
            np.savez_compressed(file, **arrays)
