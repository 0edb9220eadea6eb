"""A trained model that stays in memory and segments one scene after the other."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bifusion.arguments import path_of, require
from bifusion.config.run import Config
from bifusion.config.stages import Timeline
from bifusion.data.batching import collate
from bifusion.data.dataset import DataConfig, SceneDataset, scene_sample
from bifusion.data.open_scene import OpenScene
from bifusion.data.scene_folder import read_offset, read_unit_stated
from bifusion.data.scene_source import OneScene, OutsideScenes, SceneFolders
from bifusion.data.transforms import SceneStream
from bifusion.datasets.arrays.scene import make_scene
from bifusion.datasets.mesh_files.read import check_unplaced, is_mesh_file
from bifusion.datasets.mesh_scene import open_mesh
from bifusion.datasets.placement import Up
from bifusion.datasets.recordings.open import refuse_recording
from bifusion.device_memory import MEMORY_ERRORS, refuse_if_full
from bifusion.errors import InputError
from bifusion.evaluation.fusion_figures import seen_share, warn_if_unseen
from bifusion.inference.device import autocast_dtype, usable_device
from bifusion.inference.nan_answers import refuse_nan
from bifusion.inference.scene_warning import warn_of_points, warn_of_views
from bifusion.inference.segmentation import Segmentation, as_segmentation
from bifusion.labels.label_set import LabelSet
from bifusion.models.folding import for_inference
from bifusion.models.model import ResultsConfig
from bifusion.precision import float32_products
from bifusion.runs.checkpoint import find_checkpoint, trained_epochs
from bifusion.runs.trained_model import load_model
from bifusion.torch_defaults import as_torch_starts
from bifusion.types import Batch, FusionControl, Prediction, Scene, SceneResult

SceneLike = str | Path | Scene | Mapping[str, Any]
"""A scene folder, a mesh file, a scene in the hand, or the arguments of `make_scene` by name."""


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A scene to segment: where it is read, and what is said of it afterwards."""

    scenes: SceneFolders | OutsideScenes | OneScene
    name: str
    where: str
    offset_m: np.ndarray
    notes: list[str]
    judged: bool = False
    """Whether its unit and upright were looked at when it was opened or made."""
    unit_stated: bool = False
    """Whether a file or a user said in which unit it was."""


class Segmenter:
    """The last checkpoint of a run, its weights in memory. `predict` may be called again and again.

    Attributes:
        labels (LabelSet): the classes it tells apart.
        config (Config): what it was trained with.
        device (torch.device): where it runs.
        dtype (torch.dtype | None): what products are computed in; None: float32, as weights are.
    """

    @as_torch_starts()
    def __init__(
        self,
        run: str | Path,
        *,
        device: torch.device | str | None = None,
        precision: str | None = None,
    ):
        """`run`: run folder or checkpoint folder. `device`: None: a GPU if there is one. `precision`:
        "32-true", "bf16-mixed" or, on a GPU, "16-mixed"; None: what the run was trained in, on a CPU
        float32.

        Raises InputError: no checkpoint in `run`, or one that cannot be read; no such device or
        precision.
        """
        checkpoint = find_checkpoint(path_of(run, "run"))
        self.device = usable_device(device)
        self.checkpoint = checkpoint
        model, self.config = load_model(checkpoint, self.device)
        trained_in = "32-true" if self.device.type == "cpu" else self.config.trainer.precision
        self.dtype = autocast_dtype(precision or trained_in, self.device)
        self.model = for_inference(model, self.dtype)
        self.control = trained_control(checkpoint, self.config)

    @property
    def labels(self) -> LabelSet:
        return self.config.labels

    def __repr__(self) -> str:
        products = "float32" if self.dtype is None else str(self.dtype).removeprefix("torch.")
        return (
            f"<Segmenter of {self.config.name} on {self.device}, {products}, {self.labels.describe()}>"
        )

    @as_torch_starts()
    def predict(
        self,
        scene: SceneLike,
        *,
        scale: float | None = None,
        up: Up | None = None,
        min_score: float | None = None,
    ) -> Segmentation:
        """Segments one scene; the same input gives the same output.

        Args:
            scene: the path of a scene folder or of a mesh or cloud (.ply, .obj, .glb, .las, .e57, .pcd);
                a `Scene` or `OpenScene`; or arrays by name, `{"coord": …, "color": …}`, and whatever
                else `make_scene` takes. Or, where the run was trained on scenes from outside,
                root/split/name of one of them. Annotation is not looked at. Views are read only by
                models that were trained with them; where they see next to nothing, or
                contradict the points, a warning says so and names the likely cause; likewise where
                points of a folder are in another unit, or not upright.
            scale: metres a unit of a mesh file: 0.001 for millimetres; None: as the file says, else 1.
            up: which axis of a mesh file points up; None: y in glTF, z in all others.
            min_score: from 0 to 1, the score above which a candidate becomes an object; None: that of
                the run, 0.5 unless it was trained with another (Mask3D: 0). Where a model has learned
                little, all its scores may be lower.

        Raises:
            InputError: whatever is wrong with the scene, by file or argument; a checkpoint that answers
                with NaN.
        """
        check_min_score(min_score)
        postprocess = self.config.postprocess
        if min_score is not None:
            postprocess = postprocess.with_min_score(min_score)
        asked = self._asked(scene, scale, up)
        given = asked.scenes.scene(asked.name)
        if not asked.judged:
            warn_of_points(asked.where, given, unit_stated=asked.unit_stated)
        data = self.config.data
        sample = scene_sample(asked.scenes, asked.name, data, SceneStream(0, 0, asked.name))
        batch = collate([sample])
        if self.config.uses_views and self.control.run_2d:
            warn_of_views(asked.where, asked.scenes, asked.name, data.agreement)
        try:
            with torch.inference_mode():
                there, has_views = batch.to(self.device), bool(given.view_names)
                result = self._result(there, asked.where, has_views, postprocess)
        except MEMORY_ERRORS as error:
            refuse_if_full(error, batch)
            raise
        coord = np.asarray(given.coord)
        points = coord + asked.offset_m if asked.offset_m.any() else coord
        return as_segmentation(result, points, self.labels, asked.notes, postprocess.min_score)

    def _result(
        self, batch: Batch, where: str, has_views: bool, postprocess: ResultsConfig
    ) -> SceneResult:
        """Of a batch of one scene on the device; `where` it is from, for a warning."""
        prediction = self._forward(batch)
        flawed = prediction.answers_with_nan()
        if has_views and self.config.uses_views and self.control.run_2d:
            warn_if_unseen(where, seen_share(prediction.fusion, batch))
        (result,) = postprocess.results(prediction, batch, self.labels)
        refuse_nan(flawed, where, self.checkpoint, self.dtype)
        return result

    def _forward(self, batch: Batch) -> Prediction:
        narrow = torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)
        with float32_products("ieee", self.device), narrow:
            return self.model(batch, self.control)

    def _asked(self, scene: SceneLike, scale: float | None, up: Up | None) -> _Asked:
        if isinstance(scene, Mapping):
            scene = _of_arrays(scene)
        if isinstance(scene, str | Path):
            path = Path(scene)
            if self.config.data.source is None and not (path / "coord.npy").is_file() and path.exists():
                refuse_recording(path)
            if not is_mesh_file(path) and not path.is_file():
                check_unplaced(path, scale, up)
                return self._asked_folder(path.resolve())
            scene = open_mesh(path, scale=scale, up=up)
        else:
            check_unplaced("scene", scale, up)
        if not isinstance(scene, Scene):
            raise InputError(
                f"scene: is a {type(scene).__name__}; expected a path, a bifusion.Scene, or arrays by "
                'name: {"coord": coord, "color": color}'
            )
        opened = scene if isinstance(scene, OpenScene) else OpenScene(**vars(scene))
        one = OneScene(scene, read_views=self.config.data.max_views > 0)
        return _Asked(
            one,
            scene.name,
            f"scene {scene.name}",
            opened.offset_m,
            opened.notes,
            opened.judged,
            opened.unit_stated,
        )

    def _asked_folder(self, folder: Path) -> _Asked:
        dataset, index = dataset_of(folder, self.config.data)
        return _Asked(
            dataset.scenes,
            dataset.names[index],
            str(folder),
            read_offset(folder),
            [],
            unit_stated=read_unit_stated(folder),
        )


def check_min_score(given: float | None, name: str = "min_score") -> None:
    """InputError for what is neither None nor a score; `name`: as it was given."""
    if given is None:
        return
    require(isinstance(given, Real), given, name, "a number from 0 to 1")
    if not 0 <= given <= 1:
        raise InputError(f"{name}: found {given}; expected a score from 0 to 1")


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


def _of_arrays(arrays: Mapping[str, Any]) -> OpenScene:
    """`make_scene` of arguments by name."""
    known = list(inspect.signature(make_scene).parameters)
    unknown = [str(name) for name in arrays if name not in known]
    missing = [name for name in ("coord", "color") if name not in arrays]
    if unknown or missing:
        what = f"unknown {', '.join(unknown)}" if unknown else f"{' and '.join(missing)} missing"
        advice = "; the networks need colours: grey ones where there are none" * (missing == ["color"])
        raise InputError(f"scene: {what}; expected arrays called {', '.join(known)}{advice}")
    return make_scene(**arrays)
