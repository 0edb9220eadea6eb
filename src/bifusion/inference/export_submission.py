"""Predictions of a whole split in the formats that the ScanNet benchmark's server takes.

Formats: https://kaldir.vc.in.tum.de/scannet_benchmark/documentation and, for instances,
`evaluate_semantic_instance.py` and `util_3d.py` of the ScanNet repository. The same for ScanNet200.

- semantic: SCENE.txt, one label id a line, in the order of the mesh's vertices;
- instance: SCENE.txt, one line an instance, "predicted_masks/SCENE_000.txt LABEL_ID CONFIDENCE", and
  each mask file with 1 or 0 a line, one a vertex.

Label ids are the benchmark's own (`LabelSet.source_ids`). Scene folders made from the released
meshes keep the order of their vertices, so points are vertices.
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from bifusion.config.run import Config
from bifusion.data.dataset import SceneDataset
from bifusion.data.loader import make_loader
from bifusion.data.scene_folder import SPLITS
from bifusion.device_memory import MEMORY_ERRORS, refuse_if_full
from bifusion.errors import InputError
from bifusion.inference.device import usable_device
from bifusion.inference.nan_answers import refuse_nan
from bifusion.inference.segmenter import trained_control
from bifusion.labels.label_set import LabelSet
from bifusion.models.folding import for_inference
from bifusion.precision import float32_products
from bifusion.runs.checkpoint import find_checkpoint
from bifusion.runs.trained_model import load_model
from bifusion.storage.files import locked_beside, remove_stale, write_text, written_beside
from bifusion.torch_defaults import as_torch_starts
from bifusion.types import FusionControl, SceneResult

Task = Literal["semantic", "instance"]
MASK_FOLDER = "predicted_masks"


@as_torch_starts()
def export_submission(
    run: Path,
    split_folder: Path,
    out_dir: Path,
    task: Task,
    *,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Predict every scene of a split and write one benchmark's submission; zip the folder's content.

    Args:
        run: run folder (its last checkpoint is taken) or checkpoint folder.
        split_folder: folder of scene folders, such as data/scannet/test; labels are not needed and
            not looked at.
        out_dir: made if it is not there; the files of a scene in it are replaced.
        task: "semantic" or "instance".
        device: where the model runs; a GPU if there is one.
        progress: called with (scenes done, scenes in all).
    Returns:
        SCENE.txt of each scene.
    Raises:
        InputError: no checkpoint, classes without ids, no scene, a scene folder that cannot be read, a
            scene name with a space in it (the format has no place for that), the semantic task with
            a model that has no semantic head, a device that cannot be used, or a checkpoint that
            answers with NaN.
    """
    checkpoint = find_checkpoint(run)
    device = usable_device(device)
    model, config = load_model(checkpoint, device)
    model = for_inference(model)
    label_set = config.labels
    if not label_set.source_ids:
        raise InputError(
            f"{run}: the classes of {label_set.describe()} have no ids, and the benchmark's files are "
            "made of ids; train on data whose labels.json gives each class its id"
        )
    dataset = _split(Path(split_folder), config)
    control = trained_control(checkpoint, config)
    write, paths = write_semantic if task == "semantic" else write_instances, []
    with locked_beside(Path(out_dir)):
        for result in _predict(model, dataset, config, control, device, checkpoint):
            paths.append(write(Path(out_dir), result, label_set))
            if progress:
                progress(len(paths), len(dataset))
    return paths


def write_semantic(out_dir: Path, result: SceneResult, label_set: LabelSet) -> Path:
    """out_dir/SCENE.txt of the semantic task; InputError if the result has no semantic part."""
    if result.semantic is None:
        raise InputError(
            f"task semantic: the model of scene {result.name} has no semantic head; "
            "export the instance task"
        )
    ids = np.asarray(label_set.source_ids)[result.semantic]
    path = out_dir / f"{result.name}.txt"
    with written_beside(path) as beside:
        np.savetxt(beside, ids, fmt="%d")
    return path


def write_instances(out_dir: Path, result: SceneResult, label_set: LabelSet) -> Path:
    """out_dir/SCENE.txt of the instance task, which names its mask files, best instance first.

    What an earlier export wrote of the scene stays until all of the new is on the disk. Killed while
    the one takes the other's place, the scene has no SCENE.txt, and is exported by the next call.
    """
    masks = out_dir / MASK_FOLDER
    masks.mkdir(parents=True, exist_ok=True)
    remove_stale(masks)
    path = out_dir / f"{result.name}.txt"
    lines = []
    with ExitStack() as files:
        for row, (packed, label, score) in enumerate(
            zip(result.masks, result.labels, result.scores, strict=True)
        ):
            name = f"{result.name}_{row:03d}.txt"
            beside = files.enter_context(written_beside(masks / name))
            beside.write_bytes(_mask_text(packed, result.num_points))
            # Nine digits are a float32 exactly: scores that differ still do.
            lines.append(f"{MASK_FOLDER}/{name} {label_set.source_ids[label]} {score:.9g}\n")
        path.unlink(missing_ok=True)
    for stale in masks.glob(f"{glob.escape(result.name)}_*.txt"):
        row = stale.stem.removeprefix(f"{result.name}_")
        if row.isdecimal() and int(row) >= len(lines):
            stale.unlink()
    write_text(path, "".join(lines))
    return path


def _mask_text(packed: np.ndarray, num_points: int) -> bytes:
    """ "0\\n1\\n…": a mask has a line a point, and a scene hundreds of masks."""
    text = np.full((num_points, 2), ord("\n"), dtype=np.uint8)
    text[:, 0] = np.unpackbits(packed, count=num_points) + ord("0")
    return text.tobytes()


def _split(folder: Path, config: Config) -> SceneDataset:
    """The scenes of `folder`, each read once, not augmented."""
    folder = folder.resolve()
    if splits := [name for name in SPLITS if any((folder / name).glob("[!.]*/coord.npy"))]:
        raise InputError(
            f"{folder}: is a whole data set; expected the folder of one split: "
            f"{' or '.join(str(folder / name) for name in splits)}"
        )
    data = dataclasses.replace(config.data, root=folder.parent, cache_mb=0)
    dataset = SceneDataset(data, folder.name, config.seed, training=False, annotated=False)
    spaced = [name for name in dataset.names if name.split() != [name]]
    if spaced:
        raise InputError(
            f"{folder / spaced[0]}: a scene name with a space, tab or line break; the benchmark's files "
            "separate fields by them: rename the folder"
        )
    return dataset


@torch.inference_mode()
def _predict(
    model: torch.nn.Module,
    dataset: SceneDataset,
    config: Config,
    control: FusionControl,
    device: torch.device,
    checkpoint: Path,
) -> Iterator[SceneResult]:
    """The result of each scene, one at a time. InputError for weights that answer with NaN."""
    workers = min(config.trainer.workers, len(dataset))
    for batch in make_loader(
        dataset, epoch=0, batch_size=1, workers=workers, shuffle=False, seed=config.seed
    ):
        try:
            there = batch.to(device)
            with float32_products("ieee", device):
                prediction = model(there, control)
                flawed = prediction.answers_with_nan()
                results = config.postprocess.results(prediction, there, config.labels)
            refuse_nan(flawed, f"scene {batch.names[0]}", checkpoint, None)
        except MEMORY_ERRORS as error:
            refuse_if_full(error, batch)
            raise
        yield from results
