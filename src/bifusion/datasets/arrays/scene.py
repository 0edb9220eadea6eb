"""Arrays as a scene: checked, placed, with superpoints; in memory, or as a scene folder.

Every refusal names the argument, what was found in it, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.arguments import path_of, text_of
from bifusion.data.checks import check_scene, color_note
from bifusion.data.open_scene import OpenScene, data_set_of
from bifusion.data.scene_folder import SEGMENT_FILES, SPLITS, scene_files
from bifusion.data.scene_folder import write_scene as write_scene_folder
from bifusion.datasets.arrays.arguments import (
    check_extent,
    label_set_of,
    read_classes,
    read_colors,
    read_faces,
    read_normals,
    read_points,
    read_whole,
    same_length,
)
from bifusion.datasets.arrays.views import check_views, placed_views
from bifusion.datasets.placement import Placement, far_offset
from bifusion.datasets.superpoints.normals import surface_normals
from bifusion.datasets.superpoints.surface import surface_superpoints
from bifusion.errors import InputError
from bifusion.labels.files import LABELS_FILE, labels_text, read_labels, require_own_name
from bifusion.labels.label_set import LabelSet, require_same_classes
from bifusion.storage.files import write_text
from bifusion.storage.folders import check_replaceable
from bifusion.types import Scene, View


def make_scene(
    coord: Any,
    color: Any,
    *,
    name: str = "scene",
    normal: Any = None,
    faces: Any = None,
    superpoint: Any = None,
    segment: Any = None,
    instance: Any = None,
    labels: LabelSet | str | None = None,
    views: Iterable[View] = (),
) -> OpenScene:
    """A scene in memory, for `Segmenter.predict`, of anything that numpy takes for an array.

    Args:
        coord: (N, 3) metres, z up. Far from the origin (float64, map projections) an offset is taken off
            points and poses, and given back to what is predicted.
        color: (N, 3) RGB, uint8 or numbers of 0 … 255.
        normal: (N, 3) unit vectors; None: of the faces, or estimated.
        faces: (F, 3) vertex indices where the points are a mesh's vertices.
        superpoint: (N,) ids 0 … S−1, each used; None: computed (ScanNet's Segmentator on faces, the same
            on the points without).
        segment: (N,) class in the order of `labels`, −1 unlabelled.
        instance: (N,) instance id, −1 none.
        labels: the classes of `segment`, a label set or the name of a built-in one.
        views: posed RGB-D images in the same frame (`posed_view` makes one).

    Raises:
        InputError: naming the argument: another shape or type, a number that is not finite or out of
            range, an extent or a depth in another unit, a pose that is not rigid, a class that is none.
    """
    check_views(views)
    text_of(name, "name")
    points, bytes_, triangles = read_points(coord), read_colors(color), read_faces(faces)
    same_length(bytes_, "color", points)
    check_extent(points)
    if len(triangles) and not (triangles.min() >= 0 and triangles.max() < len(points)):
        raise InputError(
            f"faces: indices go from {triangles.min()} to {triangles.max()}; expected 0 to "
            f"{len(points) - 1}, as coord has {len(points)} points"
            + ("; subtract 1" if (triangles.min(), triangles.max()) == (1, len(points)) else "")
        )
    placement = Placement(offset_m=far_offset(points))
    placed = placement.points(points)
    near = placed.astype(np.float32)
    normals, source = surface_normals(placed, triangles, read_normals(normal, points), np.eye(3))
    normals = normals.astype(np.float32)
    superpoints = read_whole(superpoint, "superpoint", points)
    classes = read_classes(segment, labels, points)
    instances = read_whole(instance, "instance", points)
    if instances is not None and instances.min() < -1:
        raise InputError(f"instance: holds {instances.min()}; expected ids ≥ 0, −1 for none")
    by_name = {view.name: view for view in placed_views(views, placement)}
    if superpoints is None:  # which takes seconds: after all that may be wrong with the others
        superpoints = surface_superpoints(near, normals, triangles)
    scene = Scene(name, near, bytes_, superpoints, classes, instances, normals)
    check_scene(scene, "scene")
    return OpenScene(
        **{**vars(scene), "view_names": list(by_name)},
        views=by_name,
        labels=None if classes is None else label_set_of(labels),
        offset_m=placement.offset_m,
        notes=[
            *([] if normal is not None else [f"normals {source}"]),
            *([f"color: {dull}"] if (dull := color_note(bytes_)) else []),
        ],
    )


def write_scene(
    path: str | Path,
    coord: Any,
    color: Any,
    *,
    normal: Any = None,
    faces: Any = None,
    superpoint: Any = None,
    segment: Any = None,
    instance: Any = None,
    labels: LabelSet | str | None = None,
    views: Iterable[View] = (),
    source: str = "arrays",
) -> Path:
    """Writes the scene folder `path`, DATASET/SPLIT/NAME, of arrays; complete or not at all.

    A folder that was written here is replaced; what else is in it stays. Classes that are no ScanNet
    ones are written into DATASET/labels.json, which must not say others.

    Args:
        coord: as of `make_scene`, like color, normal, faces, superpoint, segment and instance.
        labels: the classes of `segment`; None: those of DATASET/labels.json.
        views: as of `make_scene`; written one at a time, a generator may render them as it goes.
        source: where the scene comes from, for scene.json.

    Returns:
        `path`.

    Raises:
        InputError: as `make_scene`; a folder in its place that was not written here, a labels.json that
            says other classes, a path without split where labels.json has to be written.
    """
    check_views(views)
    folder = path_of(path, "path").resolve()
    check_replaceable(folder, scene_files)
    if segment is not None and labels is None:
        labels = _labels_there(folder)
    scene = make_scene(
        coord,
        color,
        name=folder.name,
        normal=normal,
        faces=faces,
        superpoint=superpoint,
        segment=segment,
        instance=instance,
        labels=labels,
    )
    segments = {}
    stored, is_new = None, False
    if scene.labels is not None and scene.segment is not None:
        stored, is_new = _stored_labels(folder, scene.labels)
        segments[stored] = scene.segment
    write_scene_folder(
        folder,
        scene,
        segments=segments,
        views=placed_views(views, Placement(offset_m=scene.offset_m)),
        source=source,
        offset_m=scene.offset_m,
    )
    if stored is not None and is_new:  # only now: a scene that was refused leaves no classes behind
        write_text(data_set_of(folder) / LABELS_FILE, labels_text(stored))
    return Path(path)


def _labels_there(folder: Path) -> LabelSet | None:
    path = data_set_of(folder) / LABELS_FILE
    return read_labels(path) if path.is_file() else None


def _stored_labels(folder: Path, labels: LabelSet) -> tuple[LabelSet, bool]:
    """The set that the data set's classes are read by, and whether its labels.json is to be written:
    not where it is there, nor where the file of the scene's classes tells which set they are of."""
    require_own_name(labels, "labels", "Give these classes a name of their own.")
    there = _labels_there(folder)
    if there is not None:
        path = data_set_of(folder) / LABELS_FILE
        advice = "A data set has one set of classes: write to another one."
        require_same_classes(labels, "labels", there, str(path), advice)
        return there, False  # its name, maybe another, says which file the classes are read from
    is_new = labels.name not in SEGMENT_FILES
    if is_new and folder.parent.name not in SPLITS:
        raise InputError(
            f"path: {folder} is in no split, so there is no place for the labels.json of "
            f"{labels.describe()}; expected DATASET/SPLIT/NAME, SPLIT one of {', '.join(SPLITS)}"
        )
    if is_new:
        _refuse_over_others(folder, labels)
    return labels, is_new


def _refuse_over_others(folder: Path, labels: LabelSet) -> None:
    """InputError where the data set has scenes of built-in classes, which a labels.json would hide."""
    data_set = data_set_of(folder)
    for split in SPLITS:
        for scene in sorted((data_set / split).glob("[!.]*")):
            found = [name for name in SEGMENT_FILES.values() if (scene / name).is_file()]
            if found and scene != folder:
                raise InputError(
                    f"labels: {labels.describe()}, but {scene} has {found[0]}, of built-in classes, "
                    "which would count no longer. A data set has one set of classes: write to another."
                )
