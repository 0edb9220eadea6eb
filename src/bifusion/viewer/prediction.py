"""What `bifusion predict` wrote, as the page shows it, with the scene it was made of or without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.data.checks import check_finite
from bifusion.data.scene_folder import refuse_folder_of_scenes
from bifusion.datasets.mesh_files.read import read_mesh_file
from bifusion.datasets.ply.body import read_elements
from bifusion.datasets.ply.header import read_header
from bifusion.datasets.ply.mesh import Mesh
from bifusion.errors import InputError
from bifusion.labels.palette import distinct_color
from bifusion.labels.sets import LABEL_SETS
from bifusion.untrusted.json_text import read_json
from bifusion.viewer.scene import show_scene
from bifusion.viewer.shown_scan import (
    ShownClass,
    ShownScan,
    ShownSegmentation,
    segmentation,
    shown_classes,
)

LISTING, CLOUDS = "instances.json", ("semantic.ply", "instance.ply")
WHOLE = ("red", "green", "blue", "label", "instance")
Vertices = dict[str, np.ndarray]
"""Property → its values, of each vertex."""
_CLASS = re.compile(r"label (\d{1,6}) (.+)")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")


def open_scan(path: Path, scene: Path | None = None) -> ShownScan:
    """The scan in a scene folder or a prediction folder.

    `scene`: the scene folder that a prediction was made of, for colours, annotation and cameras.

    Raises InputError where there is neither, or it cannot be read.
    """
    path = Path(path)
    if is_prediction(path):
        return show_prediction(path, scene)
    if (path / "coord.npy").exists():
        if scene is not None:
            raise InputError(f"{path}: is a scene folder itself; --scene goes with a prediction folder")
        return show_scene(path)
    refuse_folder_of_scenes(path)
    found = sorted(item.name for item in path.iterdir())[:6] if path.is_dir() else "no such folder"
    raise InputError(
        f"{path}: found {found}; expected a scene folder (coord.npy …), or what `bifusion predict` "
        f"wrote ({', '.join((*CLOUDS, LISTING))})"
    )


def show_result(folder: Path, source: Path) -> ShownScan:
    """The prediction just written to `folder`, made of `source`: a scene folder, a PLY file, or neither,
    where scenes come from outside. InputError as `show_prediction`."""
    if (source / "coord.npy").is_file():
        return show_prediction(folder, source)
    mesh = read_mesh_file(source) if source.is_file() else None
    return show_prediction(folder, mesh=mesh)


def is_prediction(folder: Path) -> bool:
    """Whether `bifusion predict` wrote the folder."""
    return all((folder / name).is_file() for name in (*CLOUDS, LISTING))


def show_prediction(folder: Path, scene: Path | None = None, mesh: Mesh | None = None) -> ShownScan:
    """The prediction in a folder.

    Args:
        folder: what `bifusion predict` wrote to.
        scene: the scene folder it was made of; None: only what the prediction says itself is shown.
        mesh: or the mesh or cloud that it was made of: its colours and triangles are shown.
    Raises:
        InputError: a file that cannot be read, or that is of other points than the scene.
    """
    listing = _read_listing(folder / LISTING)
    (semantic, comments), (instance, _) = (read_cloud(folder / name) for name in CLOUDS)
    counts = len(semantic["x"]), len(instance["x"])
    if counts[0] != counts[1]:
        raise InputError(
            f"{folder}: {CLOUDS[0]} has {counts[0]} points and {CLOUDS[1]} {counts[1]}; predict again"
        )
    classes = _classes(comments, semantic, folder / CLOUDS[0])
    coord = np.column_stack([semantic[axis] for axis in "xyz"])
    check_finite(coord, folder / CLOUDS[0])
    name, scores = str(listing["scene"]), {one["id"]: one["score"] for one in listing["instances"]}
    shown = ShownScan(name, coord, None, classes)
    if mesh is not None:
        faces = mesh.faces if len(mesh.faces) else None
        shown = replace(shown, color=mesh.color, faces=faces)
    if scene is not None:
        of_scene = show_scene(scene, [one.name for one in classes])
        shown = replace(of_scene, name=name, classes=classes)
    predicted = _segmentation(shown, semantic["label"], instance, scores, len(classes), folder)
    return replace(shown, predicted=predicted)


def _segmentation(
    shown: ShownScan, semantic: np.ndarray, instance: Vertices, scores: dict[int, float],
    num_classes: int, folder: Path,
) -> ShownSegmentation:  # fmt: skip
    if len(semantic) != len(shown.coord):
        raise InputError(
            f"{folder}: the prediction is of {len(semantic)} points, scene {shown.name} has "
            f"{len(shown.coord)}; name the scene it was made of"
        )
    for labels in (semantic, instance["label"]):
        if labels.min() < -1 or labels.max() >= num_classes:
            raise InputError(
                f"{folder}: labels {labels.min()} … {labels.max()}, but {num_classes} classes are named"
                "; predict again"
            )
    return segmentation(
        shown.coord, semantic, instance["instance"], labels_of_objects=instance["label"], scores=scores
    )


def _read_listing(path: Path) -> dict[str, Any]:
    listing = read_json(path, advice="predict again")
    instances = listing.get("instances") if isinstance(listing, dict) else None
    sound = isinstance(instances, list) and all(
        isinstance(one, dict)
        and type(one.get("id")) is int
        and isinstance(one.get("score"), int | float)
        for one in instances
    )
    if not sound or "scene" not in listing:
        raise InputError(f"{path}: lacks a scene, or instances with id and score; predict again")
    return listing


def read_cloud(path: Path) -> tuple[Vertices, tuple[str, ...]]:
    """The vertices of a cloud, and the comments in its header."""
    header = read_header(path)
    vertex = read_elements(path, header, ("vertex",)).get("vertex", {})
    found = {name: of for name, of in vertex.items() if isinstance(of, np.ndarray)}
    whole = all(found[name].dtype.kind in "iu" for name in WHOLE if name in found)
    missing = {*"xyz", *WHOLE} - set(found)
    if missing or not whole or not len(found["x"]):
        lacks = f"lacks the properties {', '.join(sorted(missing))}" if missing else "holds no labels"
        raise InputError(f"{path}: {lacks}; expected a PLY cloud of ours: predict again")
    return found, header.comments


def _classes(comments: tuple[str, ...], vertices: Vertices, path: Path) -> tuple[ShownClass, ...]:
    """Those that the header names."""
    named = [match for line in comments if (match := _CLASS.fullmatch(line))]
    if [int(match[1]) for match in named] != list(range(len(named))) or not named:
        raise InputError(f"{path}: its header does not name the classes; predict again")
    return named_classes([_ESCAPE.sub(_unescape, match[2]) for match in named], vertices)


def named_classes(names: Sequence[str], vertices: Vertices) -> tuple[ShownClass, ...]:
    """Classes of these names in the colours of their points; those of no point have that of the built-in
    set of these names, or one of their place."""
    built_in = [labels for labels in LABEL_SETS.values() if labels.class_names == tuple(names)]
    given = [one.color for one in shown_classes(built_in[0])] if built_in else []
    used, first = np.unique(vertices["label"], return_index=True)
    channels = [vertices[channel][first].tolist() for channel in ("red", "green", "blue")]
    colors = dict(enumerate(given or map(distinct_color, range(len(names)))))
    colors |= dict(zip(used.tolist(), zip(*channels, strict=True), strict=True))
    return tuple(ShownClass(name, colors[index]) for index, name in enumerate(names))


def _unescape(match: re.Match[str]) -> str:
    """The letter that the ASCII header holds as \\xNN, \\uNNNN or \\UNNNNNNNN."""
    number = int(match[1] or match[2] or match[3], 16)
    is_letter = number <= 0x10FFFF and not 0xD800 <= number < 0xE000
    return chr(number) if is_letter else match[0]
