"""Predictions as files that other programs open: coloured PLY clouds and a JSON of instances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.labels.label_set import LabelSet
from bifusion.labels.palette import color_classes, color_instances
from bifusion.storage.files import write_text, written_beside
from bifusion.storage.folders import files_replaced
from bifusion.types import SceneResult

LISTING = "instances.json"
VIEW, MADE_OF = "view.html", "made_of.json"
"""Of a prediction's folder besides: its page; which weights and which scene it is of, and the precision
and least score where one was asked for (`predict_data.py`)."""
_POINT = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
_SEGMENT = {
    "id": {"type": "integer", "minimum": 0, "description": "property `instance` of the PLY files"},
    "class": {"type": "string", "description": "name of its class"},
    "label": {"type": "integer", "minimum": 0, "description": "class in the label set's order"},
    "num_points": {"type": "integer", "minimum": 1},
    "bounds_m": {
        "type": "object",
        "description": "smallest box along the scene's axes, metres, scene frame",
        "properties": {"min": _POINT, "max": _POINT},
        "required": ["min", "max"],
        "additionalProperties": False,
    },
}


def _objects(description: str, properties: dict[str, Any]) -> dict[str, Any]:
    item = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "array", "description": description, "items": item}


INSTANCES_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Instances of one scene",
    "type": "object",
    "properties": {
        "scene": {"type": "string"},
        "label_set": {"type": "string"},
        "num_points": {"type": "integer", "minimum": 0, "description": "points of the scene"},
        "instances": _objects(
            "all candidates, best score first; their masks may overlap",
            {**_SEGMENT, "score": {"type": "number"}},
        ),
        "segments": _objects(
            "the objects, as instance.ply shows them: each point belongs to at most one",
            _SEGMENT,
        ),
    },
    "required": ["scene", "label_set", "num_points", "instances", "segments"],
    "additionalProperties": False,
}
"""JSON schema of what `write_instances_json` writes."""


def point_segments(result: SceneResult) -> tuple[np.ndarray, np.ndarray]:
    """(N,) class and (N,) instance id of each point, -1 for none; instances do not overlap.

    The panoptic part of the result; without one, each point takes the best-scored mask that holds
    it, and its id is that mask's row.
    """
    if result.panoptic_semantic is not None and result.panoptic_instance is not None:
        return result.panoptic_semantic, result.panoptic_instance
    semantic = np.full(result.num_points, -1, dtype=np.int16)
    instance = np.full(result.num_points, -1, dtype=np.int32)
    for row in range(len(result.masks))[::-1]:
        inside = np.unpackbits(result.masks[row], count=result.num_points).view(bool)
        semantic[inside] = result.labels[row]
        instance[inside] = row
    return semantic, instance


def write_labelled_ply(
    path: Path, coord: np.ndarray, color: np.ndarray, semantic: np.ndarray, instance: np.ndarray,
    label_set: LabelSet, faces: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Write a binary PLY cloud or mesh with vertex properties x y z red green blue label instance.

    Args:
        path: file to write; complete or not at all.
        coord: (N, 3) metres; float64, far from the origin, is stored as double.
        color: (N, 3) uint8 RGB.
        semantic: (N,) class in the label set's order, -1 none (`label`, int16).
        instance: (N,) instance id, -1 none (`instance`, int32).
        label_set: its class names are listed in the header's comments, which are ASCII: other letters
            as \\xNN or \\uNNNN.
        faces: (F, 3) vertex indices; None: a cloud.
    """
    precision = "<f8" if coord.dtype == np.float64 else "<f4"
    kinds = [*((axis, precision) for axis in "xyz"), *((name, "u1") for name in CHANNELS)]
    vertices = np.empty(len(coord), dtype=[*kinds, ("label", "<i2"), ("instance", "<i4")])
    for column, axis in enumerate("xyz"):
        vertices[axis] = coord[:, column]
    for column, channel in enumerate(CHANNELS):
        vertices[channel] = color[:, column]
    vertices["label"] = semantic
    vertices["instance"] = instance
    header = _ply_header(vertices.dtype, len(vertices), label_set, faces)
    with written_beside(path) as beside, open(beside, "wb") as file:
        file.write(header)
        file.write(vertices.tobytes())  # not tofile: `filled_in_memory`
        if faces is not None:
            corners = np.empty(len(faces), dtype=[("count", "u1"), ("corner", "<i4", 3)])
            corners["count"], corners["corner"] = 3, faces
            file.write(corners.tobytes())


CHANNELS = ("red", "green", "blue")
PLY_NAMES = {"<f8": "double", "<f4": "float", "|u1": "uchar", "<i2": "short", "<i4": "int"}


def _ply_header(kind: np.dtype, count: int, label_set: LabelSet, faces: np.ndarray | None) -> bytes:
    names = [f"label {index} {name}" for index, name in enumerate(label_set.class_names)]
    told = [f"label set {label_set.name}; -1 is none", *names]
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in told)]
    lines.append(f"element vertex {count}")
    lines += [f"property {PLY_NAMES[kind[name].str]} {name}" for name in kind.names or ()]
    if faces is not None:
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    return "\n".join([*lines, "end_header", ""]).encode("ascii", "backslashreplace")


def write_instances_json(
    path: Path, result: SceneResult, coord: np.ndarray, label_set: LabelSet
) -> None:
    """Write the instances of one scene as INSTANCES_SCHEMA says; empty masks are left out.

    Args:
        path: file to write; complete or not at all.
        coord: (N, 3) metres, the points of `result`.
    """
    instances = []
    for row, (packed, label) in enumerate(zip(result.masks, result.labels, strict=True)):
        inside = np.unpackbits(packed, count=result.num_points).view(bool)
        if inside.any():
            described = _describe(row, coord[inside], int(label), label_set)
            instances.append({**described, "score": float(result.scores[row])})
    semantic, instance = point_segments(result)
    segments = []
    for identity in np.unique(instance[instance >= 0]).tolist():
        inside = instance == identity
        label = int(semantic[inside.argmax()])
        segments.append(_describe(identity, coord[inside], label, label_set))
    document = {
        "scene": result.name,
        "label_set": label_set.name,
        "num_points": result.num_points,
        "instances": instances,
        "segments": segments,
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _describe(identity: int, points: np.ndarray, label: int, label_set: LabelSet) -> dict[str, Any]:
    return {
        "id": identity,
        "class": label_set.class_names[label],
        "label": label,
        "num_points": len(points),
        "bounds_m": {"min": points.min(axis=0).tolist(), "max": points.max(axis=0).tolist()},
    }


def write_result(
    out_dir: Path, result: SceneResult, coord: np.ndarray, label_set: LabelSet
) -> list[Path]:
    """Write semantic.ply, instance.ply and instances.json of one scene; returns their paths.

    semantic.ply has the class of each point (without a semantic head: of its instance) and is
    coloured by class, instance.ply is coloured by instance; both carry both properties. A former
    prediction stays until all is written, and goes as a whole, with VIEW and MADE_OF, which would be of
    other points or vouch for other weights; what else is in the folder stays.

    Raises InputError where the disk is full, or a folder has the name of one of the files.
    """
    semantic, instance = point_segments(result)
    classes = semantic if result.semantic is None else result.semantic
    clouds = {
        "semantic.ply": (color_classes(classes, label_set), classes),
        "instance.ply": (color_instances(instance), semantic),
    }
    names = [*clouds, LISTING]
    with files_replaced(out_dir, [MADE_OF, VIEW, *names]) as beside:
        for name, (color, labels) in clouds.items():
            write_labelled_ply(beside / name, coord, color, labels, instance, label_set)
        write_instances_json(beside / LISTING, result, coord, label_set)
    return [out_dir / name for name in names]
