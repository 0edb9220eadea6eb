"""One scan of ScanNet as it is released, read into a Scene: mesh, superpoints, labels, metadata.

Files of a scan folder: NAME_vh_clean_2.ply, NAME_vh_clean_2.0.010000.segs.json,
NAME.aggregation.json (both absent for test scans), NAME.txt. See the ScanNet repository's README.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plyfile import PlyData, PlyParseError

from bifusion.data.checks import check_finite, check_pose
from bifusion.datasets.superpoints.superpoints import graph_superpoints
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.types import InputError, Scene

LABEL_SETS = {"scannet20": (SCANNET20, "nyu40id"), "scannet200": (SCANNET200, "id")}
"""Label sets written for each scan, with the column of the label table that holds their source ids."""


@dataclass
class ScanMeta:
    """NAME.txt. Fields a scan does not state are None."""

    axis_alignment: np.ndarray
    """(4, 4) raw frame to axis-aligned frame; the identity where not stated (test scans)."""
    values: dict[str, np.ndarray]
    """All numeric fields: fx_depth, mx_depth, depthWidth, colorToDepthExtrinsics, …"""
    path: Path


@dataclass
class LabelTable:
    """scannetv2-labels.combined.tsv: raw category → class of each label set, −1 outside it."""

    path: Path
    classes: dict[str, dict[str, int]]
    """Label set name → raw category → class."""


def read_scan(folder: Path, table: LabelTable | None) -> tuple[Scene, dict[str, np.ndarray], ScanMeta]:
    """The scan in `folder`, axis-aligned, its labels by label set, and its metadata.

    Args:
        folder: scan folder; its name is the scan's.
        table: None reads no annotation: no labels, and superpoints are computed by the same
            algorithm (ScanNet's Segmentator, 0.01) where segs.json is missing, as for test scans.
    Raises:
        InputError: a missing or truncated file, mesh without colour, counts that disagree, a label
            that the table does not have, coordinates that are not finite.
    """
    name = folder.name
    if not folder.is_dir():
        raise InputError(f"{folder}: no such scan folder")
    mesh = folder / f"{name}_vh_clean_2.ply"
    meta = read_meta(folder / f"{name}.txt")
    coord, color, faces = read_mesh(mesh)
    coord = coord.astype(np.float64) @ meta.axis_alignment[:3, :3].T + meta.axis_alignment[:3, 3]
    segs = folder / f"{name}_vh_clean_2.0.010000.segs.json"
    scene = Scene(
        name=name,
        coord=coord.astype(np.float32),
        color=color,
        superpoint=np.zeros(len(coord), np.int32),
        normal=mesh_normals(coord, faces).astype(np.float32),
    )
    if table is None and not segs.exists():
        scene.superpoint = graph_superpoints(coord, faces=faces)
        return scene, {}, meta
    raw = read_segments(segs, len(coord))
    scene.superpoint = np.unique(raw, return_inverse=True)[1].astype(np.int32)
    if table is None:
        return scene, {}, meta
    aggregation = folder / f"{name}.aggregation.json"
    if not aggregation.exists() and (folder / f"{name}_vh_clean.aggregation.json").exists():
        aggregation = folder / f"{name}_vh_clean.aggregation.json"
    segments, scene.instance = read_annotation(aggregation, raw, table)
    return scene, segments, meta


def read_mesh(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (N, 3) float32, colours (N, 3) uint8 and triangles (F, 3) int64 of a PLY mesh."""
    try:
        ply = PlyData.read(path, known_list_len={"face": {"vertex_indices": 3}})
        vertex, faces = ply["vertex"].data, np.array(ply["face"]["vertex_indices"], dtype=np.int64)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; a scan needs its mesh, download it again") from None
    except (PlyParseError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: truncated or no triangle mesh ({error}); download it again") from None
    colors = ("red", "green", "blue")
    lacking = [key for key in ("x", "y", "z", *colors) if key not in (vertex.dtype.names or ())]
    if lacking:
        raise InputError(
            f"{path}: the mesh's vertices lack {', '.join(lacking)}; expected x, y, z and colours "
            "(red, green, blue): take NAME_vh_clean_2.ply, not a mesh without colour"
        )
    stored = {vertex.dtype[key] for key in colors}
    if stored != {np.dtype(np.uint8)}:
        raise InputError(
            f"{path}: colours are stored as {', '.join(map(str, stored))}; expected uchar, 0 … 255: "
            "take NAME_vh_clean_2.ply as released"
        )
    coord = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float32)
    if len(coord) == 0 or (len(faces) and not 0 <= faces.min() <= faces.max() < len(coord)):
        raise InputError(f"{path}: {len(coord)} vertices, but faces name others; download it again")
    check_finite(coord, path)
    return coord, np.stack([vertex[c] for c in colors], axis=1), faces


def mesh_normals(coord: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(N, 3) unit vertex normals, faces weighted by area; zero where a vertex has no face."""
    a, b, c = (coord[faces[:, corner]] for corner in range(3))
    doubled_area = np.cross(b - a, c - a)
    corner, weight = faces.T.ravel(), np.tile(doubled_area, (3, 1))
    normal = np.stack(
        [np.bincount(corner, weight[:, i], minlength=len(coord)) for i in range(3)], axis=1
    )
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return normal / np.where(length > 0, length, 1)


def read_meta(path: Path) -> ScanMeta:
    """NAME.txt: lines "key = value"."""
    if not path.exists():
        raise InputError(f"{path}: missing; it holds the scan's axis alignment and cameras")
    values = {}
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text ({error}); download it again") from None
    for line in lines:
        key, _, text = line.partition(" = ")
        try:
            values[key.strip()] = np.array([float(number) for number in text.split()])
        except ValueError:
            continue  # fields of text, like sceneType
    alignment = values.get("axisAlignment", np.eye(4).ravel())
    if alignment.size != 16:
        raise InputError(f"{path}: axisAlignment has {alignment.size} numbers; expected 16 (4×4)")
    return ScanMeta(check_pose(alignment.reshape(4, 4), f"{path}: axisAlignment"), values, path)


def read_segments(path: Path, num_points: int) -> np.ndarray:
    """(N,) int64 raw superpoint id of each vertex."""
    ids = _whole_numbers(_field(_read_json(path), "segIndices", path), f"{path}: segIndices")
    if len(ids) != num_points:
        raise InputError(
            f"{path}: has {len(ids)} entries, but the mesh has {num_points} vertices; both must "
            "come from NAME_vh_clean_2.ply: download them again"
        )
    return ids


def read_annotation(
    path: Path, segment_of_point: np.ndarray, table: LabelTable
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Semantic classes by label set, (N,) int16, and instances, (N,) int32; −1 none.

    Walls, floors and objects outside a label set have no instance if that is so in every label set
    (`clean_labels` drops them for the one in use).
    """
    groups = _field(_read_json(path), "segGroups", path)
    if not isinstance(groups, list):
        raise InputError(f"{path}: segGroups is no list of objects; download it again")
    used, point_to_segment = np.unique(segment_of_point, return_inverse=True)
    group_of_segment = np.full(len(used), -1)
    categories = []
    for group in groups:
        label, object_name = str(_field(group, "label", path)), f"{path}: object {len(categories)}"
        members = _whole_numbers(_field(group, "segments", path), f"{object_name}: segments")
        if not np.isin(members, used).all():
            raise InputError(
                f"{object_name} ({label}) names superpoint "
                f"{members[~np.isin(members, used)][0]}, which segs.json has not; the two files must be "
                "of one mesh: download both again"
            )
        group_of_segment[np.searchsorted(used, members)] = len(categories)
        categories.append(label)
    for label in categories:
        if label not in table.classes["scannet20"]:
            raise InputError(
                f"{path}: label {label!r} is not in {table.path}; add a row with its raw_category, id "
                "and nyu40id"
            )
    group_of_point = group_of_segment[point_to_segment]
    segments, is_thing = {}, np.zeros(len(group_of_point), bool)
    for name, (label_set, _) in LABEL_SETS.items():
        of_group = np.array([table.classes[name][label] for label in categories] + [-1])
        segments[name] = of_group[group_of_point].astype(np.int16)  # entry −1 answers for no group
        is_thing |= np.isin(segments[name], label_set.thing_classes)
    instance = np.where(is_thing, group_of_point, -1)
    ids, compact = np.unique(instance, return_inverse=True)
    return segments, (compact - (ids[0] == -1)).astype(np.int32)


def read_label_table(path: Path) -> LabelTable:
    """The label table as released; the first row of a category counts."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected scannetv2-labels.combined.tsv"
        ) from None
    needed = {"raw_category", *(column for _, column in LABEL_SETS.values())}
    if not rows or not needed <= set(rows[0]):
        found = ", ".join(map(str, rows[0])) if rows else "no row"
        raise InputError(
            f"{path}: has columns {found}; expected {', '.join(sorted(needed))}, tab-separated"
        )
    classes = {}
    for name, (label_set, column) in LABEL_SETS.items():
        index = _class_of_source_id(label_set)
        # Reversed, so that the first row of a category wins.
        classes[name] = {row["raw_category"]: index.get(row[column], -1) for row in reversed(rows)}
    return LabelTable(path, classes)


def _whole_numbers(values: Any, where: str) -> np.ndarray:
    """A JSON list of whole numbers as (K,) int64."""
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise InputError(f"{where} is no list of whole numbers; download it again")
    return np.array(values, dtype=np.int64)


def _class_of_source_id(label_set: LabelSet) -> dict[str, int]:
    return {str(source_id): index for index, source_id in enumerate(label_set.source_ids)}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: missing; download the scan's annotation again") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: truncated or no JSON ({error}); download it again") from None


def _field(document: Any, key: str, path: Path) -> Any:
    if not isinstance(document, dict) or key not in document:
        raise InputError(f"{path}: has no {key!r}; is it ScanNet's file of that name? Download it again")
    return document[key]
