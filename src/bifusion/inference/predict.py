"""Segment one scene folder with a trained model and write the result as files."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch

from bifusion.config.run import Config
from bifusion.config.stages import Timeline
from bifusion.data.dataset import DataConfig, SceneDataset, collate
from bifusion.data.scan_agreement import judge_views, look_at_some
from bifusion.data.scene_folder import load_cameras, read_offset
from bifusion.data.scene_source import SceneFolders
from bifusion.datasets.mesh_scene import write_mesh_scene
from bifusion.evaluation.fusion_figures import seen_share, warn_if_unseen
from bifusion.inference.export import write_result
from bifusion.runs.checkpoint import find_checkpoint, load_model, trained_epochs
from bifusion.types import FusionControl, InputError, Scene

MOST_COMPARED = 4
"""Views, evenly spaced, that are compared with the points."""

_logger = logging.getLogger("bifusion.predict")


def predict_scene(
    run: Path, scene_folder: Path, out_dir: Path, *, device: torch.device | str | None = None
) -> list[Path]:
    """Write semantic.ply, instance.ply and instances.json (see export.py) of one scene, where its files
    had it: with the offset that its scene.json states.

    Args:
        run: run folder (its last checkpoint is taken) or checkpoint folder.
        scene_folder: scene folder, with or without views; or, where the run was trained on scenes from
            outside, root/split/name of one of them. Its annotation is not looked at, whatever its
            classes. Views are read only by models that were trained with them; where they see next
            to nothing, or contradict the points, a warning says so and names the likely cause.
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
    dataset, index = dataset_of(scene_folder, config.data)
    scene = dataset.scenes.scene(dataset.names[index])
    batch = collate([dataset.sample(index, epoch=0)]).to(device)
    control = trained_control(checkpoint, config)
    if config.uses_views and control.run_2d:
        warn_of_views(scene_folder, dataset, scene)
    with torch.inference_mode():
        prediction = model(batch, control)
        if config.uses_views and control.run_2d:
            warn_if_unseen(str(scene_folder), seen_share(prediction.fusion, batch))
        (result,) = config.postprocess.results(prediction, batch, config.labels)
    offset_m = read_offset(scene_folder)
    coord = scene.coord + offset_m if offset_m.any() else scene.coord
    return write_result(Path(out_dir), result, coord, config.labels)


def warn_of_views(scene_folder: Path, dataset: SceneDataset, scene: Scene) -> None:
    """Says so where some of the scene's views do not fit its points: the model would go by them."""
    config, scenes = dataset.config.agreement, dataset.scenes
    if not config.check or not scene.view_names:
        return
    cameras = load_cameras(scene_folder) if isinstance(scenes, SceneFolders) else None
    looked = look_at_some(
        scene.view_names, lambda view: scenes.view(scene.name, view), cameras, MOST_COMPARED
    )
    for finding in judge_views(np.asarray(scene.coord), np.asarray(scene.color), looked, config):
        _logger.warning("%s: %s", scene_folder, finding.message)


def predict_mesh(
    run: Path, mesh: Path, out_dir: Path, *, scale: float = 1.0, device: torch.device | str | None = None
) -> tuple[list[Path], list[str]]:
    """As `predict_scene` of a PLY file, mesh or cloud, z up; nothing else is left behind.

    Returns the paths, and what the user should know of how the file was understood.

    Raises InputError as `predict_scene` and `write_mesh_scene`.
    """
    find_checkpoint(run)  # before the work
    with tempfile.TemporaryDirectory(prefix="bifusion-") as folder:
        scene = Path(folder) / mesh.stem
        notes = write_mesh_scene(mesh, scene, scale=scale)
        return predict_scene(run, scene, out_dir, device=device), notes or []


def dataset_of(scene_folder: Path, config: DataConfig) -> tuple[SceneDataset, int]:
    """A data set, not augmented and without annotation, read as `config` says, that holds the scene, and
    its number there.

    Raises InputError where there is no such scene.
    """
    name, split = scene_folder.name, scene_folder.parent
    if config.source is None or (scene_folder / "coord.npy").is_file():
        inside = dataclasses.replace(config, root=split, source=None)
        dataset = SceneDataset(inside, split=".", seed=0, training=False, annotated=False)
        advice = "`bifusion prepare` makes scene folders (one whose name begins with a dot is none)"
    else:
        inside = dataclasses.replace(config, root=split.parent)
        dataset = SceneDataset(inside, split=split.name, seed=0, training=False, annotated=False)
        advice = f"{config.source} gives {', '.join(dataset.names[:8])}"
    if name not in dataset.names:
        raise InputError(f"{scene_folder}: no such scene; {advice}")
    return dataset, dataset.names.index(name)


def trained_control(checkpoint: Path, config: Config) -> FusionControl:
    """How the fusion acted when the checkpoint was saved: a model is used as it was trained."""
    epoch = trained_epochs(checkpoint, config)
    return Timeline(config.stages, config.trainer.epochs).at_end(epoch).control
