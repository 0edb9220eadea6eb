"""Segment one scene folder with a trained model and write the result as files."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import torch

from bifusion.config.run import Config
from bifusion.config.stages import Timeline
from bifusion.data.dataset import DataConfig, SceneDataset, collate
from bifusion.data.scene_folder import read_offset
from bifusion.datasets.mesh_scene import write_mesh_scene
from bifusion.datasets.placement import Up
from bifusion.evaluation.fusion_figures import seen_share, warn_if_unseen
from bifusion.inference.export import write_result
from bifusion.runs.checkpoint import find_checkpoint, load_model, trained_epochs
from bifusion.types import FusionControl, InputError


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
            to nothing, a warning says so.
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
    with torch.inference_mode():
        prediction = model(batch, control)
        if config.uses_views and control.run_2d:
            warn_if_unseen(str(scene_folder), seen_share(prediction.fusion, batch))
        (result,) = config.postprocess.results(prediction, batch, config.labels)
    offset_m = read_offset(scene_folder)
    coord = scene.coord + offset_m if offset_m.any() else scene.coord
    return write_result(Path(out_dir), result, coord, config.labels)


def predict_mesh(
    run: Path,
    mesh: Path,
    out_dir: Path,
    *,
    scale: float = 1.0,
    up: Up | None = None,
    device: torch.device | str | None = None,
) -> tuple[list[Path], list[str]]:
    """As `predict_scene` of a mesh or cloud file (`write_mesh_scene`); nothing else is left behind.

    Returns the paths, and what the user should know of how the file was understood.

    Raises InputError as `predict_scene` and `write_mesh_scene`.
    """
    find_checkpoint(run)  # before the work
    with tempfile.TemporaryDirectory(prefix="bifusion-") as folder:
        scene = Path(folder) / mesh.stem
        notes = write_mesh_scene(mesh, scene, scale=scale, up=up)
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
