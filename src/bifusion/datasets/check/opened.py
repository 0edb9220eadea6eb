"""A scene folder opened as far as it can be, and what a check says of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bifusion.data.scene_folder import load_array, read_unit_stated, segment_file
from bifusion.data.view_files import Cameras, read_cameras
from bifusion.errors import InputError
from bifusion.labels.label_set import LabelSet

Severity = Literal["error", "warning"]

ARRAYS: dict[str, tuple[tuple[int, ...], type, bool]] = {
    "coord": ((3,), np.float32, True),
    "color": ((3,), np.uint8, True),
    "superpoint": ((), np.int32, True),
    "normal": ((3,), np.float32, False),
    "instance": ((), np.int32, False),
}
"""Row, type, and whether a scene must have it."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a scene ("error"), or implausible ("warning")."""

    severity: Severity
    message: str
    """The file, what was found, what was expected, what to do."""


def error(message: object) -> Finding:
    """What stops training or prediction, or makes them wrong."""
    return Finding("error", str(message))


def warning(message: object) -> Finding:
    """What may be right, but seldom is."""
    return Finding("warning", str(message))


@dataclass
class OpenedScene:
    """The arrays and cameras of a scene folder that could be read, and what is wrong with the others."""

    folder: Path
    label_sets: Sequence[LabelSet]
    """Those whose files the scene may have."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """By name without .npy; as many rows as `coord`, where that could be read."""
    cameras: Cameras | None = None
    unit_stated: bool = False
    """As scene.json says."""
    unread: list[Finding] = field(default_factory=list)

    def segments(self) -> Iterator[tuple[LabelSet, Path, np.ndarray]]:
        """Label set, file and (N,) classes of each file of semantic labels."""
        for labels in self.label_sets:
            path = self.folder / segment_file(labels)
            if path.stem in self.arrays:
                yield labels, path, self.arrays[path.stem]


Check = Callable[[OpenedScene], Iterator[Finding]]


def open_scene(folder: Path, label_sets: Sequence[LabelSet]) -> OpenedScene:
    """The scene in `folder`; raises nothing, whatever its files are like."""
    scene = OpenedScene(folder, label_sets)
    segments = {Path(segment_file(labels)).stem: ((), np.int16, False) for labels in label_sets}
    for name, (row, dtype, needed) in (ARRAYS | segments).items():
        path = folder / f"{name}.npy"
        if needed or path.exists():
            _open_array(scene, path, row, dtype)
    for read in (_open_cameras, _open_description):
        try:
            read(scene)
        except InputError as problem:
            scene.unread.append(error(problem))
    return scene


def _open_array(scene: OpenedScene, path: Path, row: tuple[int, ...], dtype: type) -> None:
    count = len(scene.arrays["coord"]) if "coord" in scene.arrays else None
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            array = load_array(path, count, row, dtype)
        scene.unread += [warning(f"{path}: {one.message}") for one in said]
        if len(array) == 0:
            raise InputError(f"{path}: holds no point; expected at least one; prepare the scene again")
        scene.arrays[path.stem] = array
    except InputError as problem:
        missing = path.stem == "superpoint" and not path.exists()
        advice = f"; compute it with `bifusion prepare superpoints {scene.folder}`" if missing else ""
        scene.unread.append(error(f"{problem}{advice}"))


def _open_description(scene: OpenedScene) -> None:
    scene.unit_stated = read_unit_stated(scene.folder)


def _open_cameras(scene: OpenedScene) -> None:
    if (scene.folder / "views").is_dir():
        scene.cameras = read_cameras(scene.folder)
