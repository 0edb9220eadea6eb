"""Segment one scene folder with a trained model and write the result as files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from bifusion.config.run import Config
from bifusion.config.stages import Timeline
from bifusion.data.dataset import DataConfig, SceneDataset, collate
from bifusion.data.scene_folder import load_scene
from bifusion.evaluation.fusion_figures import seen_share, warn_if_unseen
from bifusion.inference.export import write_result
from bifusion.models.postprocess_mask3d import scene_results
from bifusion.runs.checkpoint import find_checkpoint, load_model, trained_epochs
from bifusion.types import Batch, FusionControl, InputError


def predict_scene(
    run: Path, scene_folder: Path, out_dir: Path, *, device: torch.device | str | None = None
) -> list[Path]:
    """Write semantic.ply, instance.ply and instances.json (see export.py) of one scene.

    Args:
        run: run folder (its last checkpoint is taken) or checkpoint folder.
        scene_folder: scene, with or without views. Its annotation is not looked at, whatever its
            classes. Views are read only by models that were trained with them; where they see next to
            nothing, a warning says so.
        out_dir: made if it is not there; each file appears complete or not at all.
        device: where the model runs; a GPU if there is one.
    Returns:
        The three paths.
    Raises:
        InputError: no checkpoint in `run`, or a scene folder that cannot be read.
    """
    scene_folder = Path(scene_folder).resolve()
    checkpoint = find_checkpoint(run)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, config = load_model(checkpoint, device)
    scene = load_scene(scene_folder, None)
    batch = scene_batch(scene_folder, config.data).to(device)
    control = trained_control(checkpoint, config)
    with torch.inference_mode():
        prediction = model(batch, control)
        if config.uses_views and control.run_2d:
            warn_if_unseen(str(scene_folder), seen_share(prediction.fusion, batch))
        (result,) = scene_results(prediction, batch, config.labels, config.postprocess)
    return write_result(Path(out_dir), result, scene.coord, config.labels)


def scene_batch(scene_folder: Path, config: DataConfig) -> Batch:
    """The scene in `scene_folder` alone as a batch, not augmented, without annotation, read as `config`
    says."""
    config = dataclasses.replace(config, root=scene_folder.parent)
    dataset = SceneDataset(config, split=".", seed=0, training=False, annotated=False)
    if scene_folder.name not in dataset.names:
        raise InputError(f"{scene_folder}: names with a leading dot are no scenes; rename the folder")
    return collate([dataset.sample(dataset.names.index(scene_folder.name), epoch=0)])


def trained_control(checkpoint: Path, config: Config) -> FusionControl:
    """How the fusion acted when the checkpoint was saved: a model is used as it was trained."""
    epoch = trained_epochs(checkpoint, config)
    return Timeline(config.stages, config.trainer.epochs).at_end(epoch).control
