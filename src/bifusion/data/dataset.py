"""Scenes of one split as samples: points, voxels, targets and views, augmented in training."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from bifusion.bounds import Count, Metres, Pixels, PositiveFloat
from bifusion.changes import MAY_CHANGE
from bifusion.data.annotation import AS_OURS, Annotation, find_annotation
from bifusion.data.batching import Sample
from bifusion.data.checks import check_finite, require_text
from bifusion.data.images import EncoderView, encoder_view
from bifusion.data.scene_source import OneScene, OutsideScenes, SceneFolders
from bifusion.data.transforms import (
    AugmentConfig,
    SceneStream,
    augment_coord,
    choose_views,
    elastic_distortion,
    jitter_color,
    subvoxel_shift_m,
)
from bifusion.data.view_agreement import Disagreements, ViewAgreementConfig
from bifusion.data.view_fit import ScanSample
from bifusion.data.voxels import (
    Origin,
    SuperpointLabels,
    clean_labels,
    compact_ids,
    grid_cells,
    superpoint_labels,
    voxelize,
)
from bifusion.errors import InputError
from bifusion.labels.files import LABELS_FILE, labels_of_data
from bifusion.labels.label_set import LabelSet, require_same_classes
from bifusion.labels.sets import LABEL_SETS, get_label_set, known_sets
from bifusion.rng import derive_seed
from bifusion.types import Scene, SceneTruth


@dataclass
class DataConfig:
    """Where scenes lie and what a network sees of them. Defaults: OneFormer3D for ScanNet."""

    root: Annotated[Path, MAY_CHANGE] = Path("data")
    """Folder with train/ and val/, each holding scene folders."""
    source: str | None = None
    """"module:function" from outside the package, which makes the scenes of (root, split) in a layout of
    its own (data/scene_source.py); None: scene folders."""
    label_set: str = "scannet20"
    """Name of the classes: a built-in label set's, or, where root has a labels.json, that one's."""
    labels: Annotated[LabelSet | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    """The classes themselves. None in a recipe: a run takes them from its data when it starts
    (`with_labels`) and stores them whole."""
    voxel_size_m: Metres = 0.02
    """Side of a voxel."""
    origin: Origin = "min"
    """Where the voxel grid starts: at the smallest coordinate, or at the world's zero."""
    color_mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """Of 0 … 255; colour features are (colour − mean) / std."""
    color_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (127.5, 127.5, 127.5)
    """Of 0 … 255; see `color_mean`."""
    use_xyz: bool = True
    """Append xyz − mean(xyz) in metres, after the rigid augmentation and before the elastic one."""
    max_views: Count = 0
    """Most views of a scene; 0: no image is read."""
    image_size: Pixels = 320
    """Long side in pixels of images for the encoder."""
    patch_size: Pixels = 16
    """Both image sides are multiples of it."""
    depth_size: Pixels = 640
    """Longest side of the depth maps for the occlusion test."""
    cache_mb: Annotated[Count, MAY_CHANGE] = 1024
    """Decoded scenes and views kept in memory, by each process that loads; 0: none."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    agreement: ViewAgreementConfig = field(default_factory=ViewAgreementConfig)
    """Whether views fit the scan, looked at whenever one is loaded."""

    @property
    def feature_channels(self) -> int:
        """Channels of `Batch.voxel_feats`."""
        return 6 if self.use_xyz else 3

    @property
    def classes(self) -> LabelSet:
        """`labels`; in a recipe that has met no data yet, the built-in set called `label_set`."""
        return self.labels if self.labels is not None else get_label_set(self.label_set)


def with_labels(config: DataConfig, of_run: str = "the configuration") -> DataConfig:
    """`config` with the classes of the data set in its root, where it has none yet.

    A labels.json goes before a built-in `label_set`, which is what recipes come with. Raises
    InputError: a damaged labels.json, no such label set; or, naming the classes that differ, where
    `config` (of `of_run`) has other classes already than the data set, or classes of its own that a data
    set without labels.json cannot have.
    """
    own = config.labels
    unnamed = config.root.is_dir() and not (config.root / LABELS_FILE).is_file()
    if unnamed and own is not None and own.name not in LABEL_SETS:
        raise InputError(
            f"{of_run} has classes of its own, {own.describe()}, and {config.root} has no "
            f"{LABELS_FILE}, which would say that its labels count in them; copy there that of the data "
            "which the model was trained on, if they do"
        )
    found = labels_of_data(config.root, config.label_set)
    if config.labels is not None:
        advice = "Use data of the classes the model was trained with, or train a recipe anew."
        require_same_classes(config.labels, of_run, found, str(config.root), advice)
        return config
    if config.label_set not in (found.name, *LABEL_SETS):
        raise InputError(
            f"label set {config.label_set!r} is not that of {config.root / LABELS_FILE}, which is "
            f"{found.name!r}; built in are {known_sets()}"
        )
    return dataclasses.replace(config, labels=found, label_set=found.name)


@dataclass
class SceneData:
    """What does not change from epoch to epoch, as the cache keeps it."""

    scene: Scene
    """In memory; superpoints int64, 0 … S−1 without gaps; without normals, which nobody reads."""
    targets: SuperpointLabels
    truth: SceneTruth

    @cached_property
    def scan(self) -> ScanSample:
        """What views are compared with."""
        return ScanSample(self.scene.coord, self.scene.color)


class Cache:
    """Least recently used entries dropped beyond `limit` bytes. One a process, never shared."""

    def __init__(self, limit: int):
        self.limit = limit
        self.size = 0
        self.entries: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def get(self, key: Any, make: Callable[[], tuple[Any, int]]) -> Any:
        """The entry `key`; `make` gives it and its size in bytes where it is not there."""
        if key in self.entries:
            self.entries.move_to_end(key)
            return self.entries[key][0]
        value, size = make()
        if size <= self.limit:
            self.entries[key] = (value, size)
            self.size += size
            while self.size > self.limit:
                self.size -= self.entries.popitem(last=False)[1][1]
        return value


def open_scenes(
    config: DataConfig, split: str, *, annotated: bool = True
) -> SceneFolders | OutsideScenes:
    """The scenes of root/`split`; not `annotated`: without their labels, whatever they are.

    InputError: no such folder, no scene, a source that cannot be had.
    """
    root, read_views = Path(config.root), config.max_views > 0
    if config.source is not None:
        return OutsideScenes(config.source, root, split, read_views=read_views, read_labels=annotated)
    labels = config.classes if annotated else None
    return SceneFolders(root / split, labels, read_views=read_views)


class SceneDataset:
    """The scenes of root/`split`, by name.

    Args:
        config: what to make of them.
        split: "train" or "val".
        seed: run seed; the random streams of a sample are named by it, the epoch and the scene.
        training: augment, drop views, and make targets; else fill `truths` instead of augmenting.
        annotated: False: labels are not looked at, whatever they are.
    Raises:
        InputError: no such folder, no scene in it, a scene's name that is no text, a source that cannot
            be had.
    """

    def __init__(
        self, config: DataConfig, split: str, seed: int, training: bool, *, annotated: bool = True
    ):
        self.config, self.split, self.seed, self.training = config, split, seed, training
        self.scenes = open_scenes(config, split, annotated=annotated)
        self.names = self.scenes.names
        if annotated:  # all are trained or counted on; else the one that is asked for alone matters
            for name in self.names:
                require_text(name, f"{self.scenes.place}: scene")
        self.cache, self.disagreements = Cache(config.cache_mb * 2**20), Disagreements()
        # Scenes from outside are numbered as `types.Scene` says.
        ours = isinstance(self.scenes, SceneFolders)
        self.annotation = find_annotation(config.root, config.classes) if annotated and ours else AS_OURS

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, index: int, epoch: int) -> Sample:
        """Scene `index` as epoch `epoch` sees it; the same arguments give the same sample."""
        name = self.names[index]
        stream = SceneStream(self.seed, epoch, name)
        return scene_sample(
            self.scenes,
            name,
            self.config,
            stream,
            training=self.training,
            cache=self.cache,
            disagreements=self.disagreements,
            annotation=self.annotation,
        )


def scene_sample(
    scenes: SceneFolders | OutsideScenes | OneScene,
    name: str,
    config: DataConfig,
    stream: SceneStream,
    *,
    training: bool = False,
    cache: Cache | None = None,
    disagreements: Disagreements | None = None,
    annotation: Annotation = AS_OURS,
) -> Sample:
    """The sample of the scene `name`; see SceneDataset.

    `cache` and `disagreements` carry over what was made and found for earlier samples; None: nothing.

    Raises:
        InputError: whatever is wrong with its arrays or with the views chosen from it.
    """
    require_text(name, "scene")
    kept, found = cache or Cache(0), disagreements or Disagreements()
    data: SceneData = kept.get(name, lambda: _load_data(scenes, name, config, annotation))
    augment = config.augment if training and config.augment.enabled else None
    chosen = choose_views(data.scene.view_names, config.max_views, augment, stream)
    views: list[EncoderView] = [
        kept.get((name, view), lambda view=view: _load_view(scenes, view, config, data, found))
        for view in chosen
    ]
    sample = build_sample(data, config, views, augment, stream)
    if not training:
        sample.truth = data.truth
    return sample


def build_sample(
    data: SceneData,
    config: DataConfig,
    views: list[EncoderView],
    augment: AugmentConfig | None,
    stream: SceneStream,
) -> Sample:
    """Voxelise one scene, augmented where `augment` is given. Pixels stay with the original points."""
    scene = data.scene
    rigid = coord = scene.coord
    color, shift = scene.color.astype(np.float32), None
    try:
        if augment:
            rigid = augment_coord(scene.coord, augment, stream)
            coord = elastic_distortion(rigid, augment, stream)
            color = jitter_color(scene.color, augment, stream)
            shift = subvoxel_shift_m(augment, config.voxel_size_m, stream)
        voxels = voxelize(coord, config.voxel_size_m, config.origin, shift)
    except InputError as error:
        raise InputError(f"{scene.name}: {error}") from None
    feats = (color - np.asarray(config.color_mean, np.float32)) / np.asarray(
        config.color_std, np.float32
    )
    if config.use_xyz:
        feats = np.concatenate(
            [feats, rigid - rigid.mean(axis=0, dtype=np.float64).astype(np.float32)], axis=1
        )
    return Sample(
        name=scene.name,
        voxel_coords=voxels.coords,
        voxel_feats=voxels.mean(feats),
        voxel_position_m=voxels.mean(scene.coord),
        point_to_voxel=voxels.point_to_voxel,
        point_to_superpoint=scene.superpoint,
        num_superpoints=len(data.targets.semantic),
        bounds_m=np.stack([scene.coord.min(axis=0), scene.coord.max(axis=0)]),
        seed=derive_seed(stream.seed, stream.epoch, stream.scene),
        targets=data.targets,
        annotated=scene.segment is not None,
        views=views,
        voxel_augmented_m=voxels.mean(coord) if augment else None,
    )


def _load_data(
    scenes: SceneFolders | OutsideScenes | OneScene,
    name: str,
    config: DataConfig,
    annotation: Annotation,
) -> tuple[SceneData, int]:
    """A scene's arrays and targets, and their size in bytes."""
    scene, labels = scenes.scene(name), config.classes
    scene.coord, scene.color = np.array(scene.coord), np.array(scene.color)  # out of the memory maps
    check_finite(scene.coord, scenes.where(name, "coord"))
    try:
        grid_cells(scene.coord, config.voxel_size_m, config.origin)
    except InputError as error:
        raise InputError(f"{scene.name}: {error}") from None
    superpoint, count = compact_ids(scene.superpoint, scenes.where(name, "superpoint"))
    segment, instance = clean_labels(
        scene.segment,
        scene.instance,
        labels,
        scenes.where(name, "segment"),
        len(scene.coord),
        zero_is_none=annotation.zero_is_none,
    )
    targets = superpoint_labels(segment, instance, superpoint, count, labels)
    arrays = (scene.coord, scene.color, superpoint, segment, instance, targets.masks)
    # without what is still a memory map: each is an open file, of which a process may have 1,024
    scene = dataclasses.replace(
        scene,
        superpoint=superpoint,
        segment=None if scene.segment is None else segment,
        instance=None if scene.instance is None else instance,
        normal=None,
    )
    data = SceneData(scene, targets, SceneTruth(scene.name, segment, instance))
    return data, sum(array.nbytes for array in arrays)


def _load_view(
    scenes: SceneFolders | OutsideScenes | OneScene,
    view: str,
    config: DataConfig,
    data: SceneData,
    disagreements: Disagreements,
) -> tuple[EncoderView, int]:
    """A view at the encoder's size, compared with its scan, and its size in bytes."""
    scene = data.scene.name
    stored = scenes.view(scene, view)
    seen = encoder_view(stored, config.image_size, config.patch_size, config.depth_size)
    if config.agreement.check:
        seen.disagreement = disagreements.of(scene, seen, lambda: data.scan, config.agreement)
    return seen, seen.nbytes
