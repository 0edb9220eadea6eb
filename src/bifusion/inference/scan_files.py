"""A labelled scan as files that other programs open: PLY, GLB, tables, arrays."""

from __future__ import annotations

import csv
import importlib.metadata
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.data.scene_folder import scene_files
from bifusion.datasets.mesh_files.textures import srgb_to_linear
from bifusion.datasets.orientation.orient import turn_up
from bifusion.datasets.scan.made import MadeScan
from bifusion.errors import InputError
from bifusion.inference.export import write_labelled_ply
from bifusion.inference.labelled import LabelledObject, LabelledScan
from bifusion.labels.palette import color_classes, color_instances
from bifusion.storage.files import write_array
from bifusion.storage.json_files import to_json
from bifusion.untrusted.files import read_text
from bifusion.untrusted.json_text import read_json

DESCRIPTION, SCENE, VIEW = "scan.json", "scene", "view.html"
FILES = (
    "classes.ply", "objects.ply", "classes.glb", "objects.csv", "objects.json", "labels.npy",
    "instances.npy", "labels.txt",
)  # fmt: skip
FORMAT_VERSION = 1
MOST_PAGE_BYTES = 1 << 30
COLUMNS = (
    "id", "class", "score", "vertices", "centre_x", "centre_y", "centre_z", "min_x", "min_y", "min_z",
    "max_x", "max_y", "max_z", "size_x", "size_y", "size_z", "length_m", "width_m", "height_m",
)  # fmt: skip
Z_TO_Y = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""(3, 3) z up to y up, as glTF has it."""


def scan_files(folder: Path) -> list[str]:
    """What `bifusion scan` wrote into a folder, scan.json last; nothing in other folders."""
    path = folder / DESCRIPTION
    described: Any = None
    with suppress(InputError):
        described = read_json(path)
    if not isinstance(described, dict) or not isinstance(described.get("versions"), dict):
        return []
    scene = [f"{SCENE}/{name}" for name in scene_files(folder / SCENE)]
    return [*FILES, VIEW, *scene, DESCRIPTION]


def scene_of(folder: Path) -> Path:
    """The scene in a folder that `bifusion scan` wrote; any other path as it is."""
    return folder / SCENE if scan_files(folder) else folder


def scan_page(folder: Path) -> str | None:
    """The page that `bifusion scan` left in a folder; None: it did not write the folder."""
    path = folder / VIEW
    if not scan_files(folder) or not path.is_file():
        return None
    return read_text(path, most_bytes=MOST_PAGE_BYTES)


def write_labelled(folder: Path, labelled: LabelledScan, run: Path) -> None:
    """Writes FILES and scan.json of a labelled scan to `folder`, which is there.

    Vertices are the user's, in their frame, unit and order, with the triangles between them. The GLB
    file alone is in metres with y up, as glTF demands, and near the origin.
    """
    made, labels = labelled.made, labelled.segmentation.labels
    semantic, instance, mesh = labelled.semantic, labelled.instance, made.mesh
    coord = mesh.coord.astype(np.float32)
    coord = coord if np.array_equal(coord, mesh.coord) else mesh.coord
    faces = mesh.faces if len(mesh.faces) else None
    by_class = color_classes(semantic, labels)
    for name, color in (("classes.ply", by_class), ("objects.ply", color_instances(instance))):
        write_labelled_ply(folder / name, coord, color, semantic, instance, labels, faces)
    _write_glb(folder / "classes.glb", made, by_class)
    write_array(folder / "labels.npy", semantic.astype(np.int16))
    write_array(folder / "instances.npy", instance.astype(np.int32))
    rows = zip(semantic.tolist(), instance.tolist(), strict=True)  # np.savetxt takes a second
    lines = ["# class and object of each vertex, in the order of the input; -1 is none\n"]
    lines += [f"{label} {one}\n" for label, one in rows]
    (folder / "labels.txt").write_text("".join(lines), encoding="utf-8")
    _write_table(folder / "objects.csv", labelled.objects)
    _write_json(folder / "objects.json", _object_list(labelled))
    _write_json(folder / DESCRIPTION, _description(labelled, run))


def _write_glb(path: Path, made: MadeScan, color: np.ndarray) -> None:
    from trimesh import PointCloud, Scene, Trimesh

    to_y_up = Z_TO_Y @ turn_up(made.up)
    middle = made.mesh.coord.mean(axis=0)
    far = made.placement.offset_m.any()
    near = (made.mesh.coord - middle * far) * made.placement.scale
    linear = np.rint(srgb_to_linear(color / 255) * 255).astype(np.uint8)
    rgba = np.column_stack([linear, np.full(len(linear), 255, np.uint8)])
    vertices = near @ to_y_up.T
    if len(made.mesh.faces):
        shape = Trimesh(vertices, made.mesh.faces, vertex_colors=rgba, process=False)
    else:
        shape = PointCloud(vertices, colors=rgba)
    Scene([shape]).export(str(path), file_type="glb")


def _write_table(path: Path, objects: list[LabelledObject]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for one in objects:
            boxes = (one.centre, one.low, one.high, one.size, one.size_m)
            numbers = [float(value) for box in boxes for value in box]
            table.writerow([one.id, one.class_name, one.score, one.vertices, *numbers])


def _object_list(labelled: LabelledScan) -> dict[str, Any]:
    labels, made = labelled.segmentation.labels, labelled.made
    objects = [
        {
            "id": one.id,
            "class": one.class_name,
            "label": one.label,
            "score": one.score,
            "vertices": one.vertices,
            "centre": one.centre,
            "size": one.size,
            "box": {"min": one.low, "max": one.high},
            "size_m": {"length": one.size_m[0], "width": one.size_m[1], "height": one.size_m[2]},
        }
        for one in labelled.objects
    ]
    return {
        "scan": made.scene.name,
        "label_set": labels.name,
        "classes": list(labels.class_names),
        "metres_a_unit": made.placement.scale,
        "up": made.up,
        "vertices": len(made.mesh.coord),
        "objects": objects,
    }


def _description(labelled: LabelledScan, run: Path) -> dict[str, Any]:
    made = labelled.made
    to_scene = made.placement.aligned
    to_scene[:3, :3] *= made.placement.scale
    to_scene[:3, 3] -= made.placement.offset_m
    return {
        "scan": made.scene.name,
        "kind": made.kind,
        "source": made.source,
        "run": run.name,
        "min_score": labelled.segmentation.min_score,
        "lines": [*labelled.warnings, *made.lines],
        "to_scene": to_scene,
        "points": len(made.scene.coord),
        "views": len(made.scene.view_names),
        "versions": {"format": FORMAT_VERSION, "bifusion": importlib.metadata.version("bifusion")},
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(to_json(value), indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
