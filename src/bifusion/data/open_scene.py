"""One scene in the hand: its arrays, its views by name, and the classes of its labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bifusion.data.scene_folder import (
    SEGMENT_FILES,
    load_scene,
    read_offset,
    read_unit_stated,
    segment_file,
)
from bifusion.data.view_files import load_cameras, load_view, picture_path
from bifusion.errors import InputError
from bifusion.labels.files import LABELS_FILE, read_labels
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import LABEL_SETS
from bifusion.types import Scene, View


@dataclass(repr=False)
class OpenScene(Scene):
    """A scene of a folder, of a PLY file, or made of arrays. `view_names` are the keys of `views`."""

    views: Mapping[str, View] = field(default_factory=dict)
    """By name, in order; those of a scene folder are decoded when asked for."""
    labels: LabelSet | None = None
    """The classes that `segment` counts in; None: it is not annotated."""
    axis_alignment: np.ndarray | None = None
    """(4, 4) rigid, metres: the input's frame to the scene's before the offset; None: the same."""
    offset_m: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """(3,) float64 metres that were taken off points and poses, as they were far from the origin."""
    notes: list[str] = field(default_factory=list)
    """What one should know of how the input was understood."""
    judged: bool = False
    """Whether unit and upright were looked at as it was opened, and are in `notes`; else predicting
    looks at them."""
    unit_stated: bool = False
    """Whether a file or a user said in which unit it was, so that a large scan is in no other."""


class StoredViews(Mapping[str, View]):
    """The views of a scene folder. Reading one raises InputError as `load_view` does."""

    def __init__(self, folder: Path):
        self._folder, self._cameras = folder, load_cameras(folder)

    def __getitem__(self, name: str) -> View:
        if name not in self._cameras.names:
            raise KeyError(name)
        return load_view(self._folder, name, self._cameras)

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras.names)

    def __len__(self) -> int:
        return len(self._cameras.names)

    @property
    def pictures(self) -> dict[str, Path]:
        """The file of each view's picture."""
        return {name: picture_path(self._cameras, name) for name in self._cameras.names}


def open_folder(folder: Path, labels: LabelSet | None = None, *, annotated: bool = True) -> OpenScene:
    """The scene in `folder` (CONVENTIONS.md, "A scene on disk"), its arrays as memory maps.

    Args:
        labels: the classes to read; None: those of its data set's labels.json, else the built-in ones
            (scannet20 before scannet200) whose file is there.
        annotated: False: annotation is not looked at.

    Raises:
        InputError: a missing, truncated or misshapen array; a segment.npy of which nothing says the
            classes.
    """
    folder = Path(folder).resolve()
    labels = (labels or _labels_of(folder)) if annotated else None
    scene = load_scene(folder, labels)
    views = StoredViews(folder) if scene.view_names else {}
    return OpenScene(
        **vars(scene),
        views=views,
        labels=labels,
        offset_m=read_offset(folder),
        unit_stated=read_unit_stated(folder),
    )


def data_set_of(folder: Path) -> Path:
    """The data set that a scene folder SPLIT/NAME is in, where labels.json lies."""
    return folder.parent.parent


def _labels_of(folder: Path) -> LabelSet | None:
    """The classes of a scene's labels; None where it has none."""
    own = data_set_of(folder) / LABELS_FILE
    if own.is_file():
        labels = read_labels(own)
        return labels if (folder / segment_file(labels)).exists() else None
    for name, file in SEGMENT_FILES.items():
        if (folder / file).exists():
            return LABEL_SETS[name]
    if (folder / "segment.npy").exists():
        raise InputError(
            f"{folder / 'segment.npy'}: nothing says its classes; expected {own} (`bifusion labels` "
            "makes one), or name a set: labels="
        )
    return None
