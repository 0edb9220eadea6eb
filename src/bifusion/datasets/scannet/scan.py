"""One scan of ScanNet as it is released, read into a Scene: mesh, superpoints, labels, metadata.

Files of a scan folder: NAME_vh_clean_2.ply, NAME_vh_clean_2.0.010000.segs.json,
NAME.aggregation.json (both absent for test scans), NAME.txt. See the ScanNet repository's README.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bifusion.data.checks import check_pose
from bifusion.datasets.mesh_scene import place_mesh
from bifusion.datasets.placement import Placement
from bifusion.datasets.ply.mesh import read_mesh
from bifusion.datasets.superpoints.superpoints import segmentator_superpoints
from bifusion.errors import InputError, listing
from bifusion.labels.label_set import LabelSet
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.types import Scene
from bifusion.untrusted.files import read_text
from bifusion.untrusted.json_text import read_json
from bifusion.untrusted.tables import Row, read_rows

DOWNLOAD = "download it again"
MOST_META_BYTES = 1 << 20
MOST_OBJECTS = 65_536
"""Of an annotation; rooms have some hundreds."""
LABEL_SETS = {"scannet20": (SCANNET20, "nyu40id"), "scannet200": (SCANNET200, "id")}
"""Label sets written for each scan, with the column of the label table that holds their source ids."""


NUMERIC = ("axisAlignment", "colorToDepthExtrinsics", "fx_depth", "fy_depth", "mx_depth", "my_depth",
           "depthWidth", "depthHeight")  # fmt: skip
"""Fields of NAME.txt that are used."""


@dataclass
class ScanMeta:
    """NAME.txt. Fields a scan does not state are None."""

    axis_alignment: np.ndarray
    """(4, 4) raw frame to axis-aligned frame; the identity where not stated (test scans)."""
    values: dict[str, np.ndarray]
    """All numeric fields: fx_depth, mx_depth, depthWidth, colorToDepthExtrinsics, …"""
    path: Path
    unread: list[str] = field(default_factory=list)
    """Lines that are no "key = value"."""


@dataclass
class Scan:
    """A scan read, in its scene's frame."""

    scene: Scene
    segments: dict[str, np.ndarray]
    """Label set name → (N,) classes; empty without annotation."""
    meta: ScanMeta
    mesh: Path
    faces: np.ndarray
    """(F, 3) int64, F is 0 for a cloud."""
    placement: Placement
    """How points, and so the poses of images, came from the files' frame into the scene's."""
    notes: list[str]
    """What the user should know of how its files were understood."""


@dataclass
class LabelTable:
    """scannetv2-labels.combined.tsv: raw category → class of each label set, −1 outside it."""

    path: Path
    classes: dict[str, dict[str, int]]
    """Label set name → raw category → class."""
    notes: list[str] = field(default_factory=list)
    """Rows that cannot be read."""


def read_scan(folder: Path, table: LabelTable | None, *, scale: float = 1.0) -> Scan:
    """The scan in `folder`, axis-aligned, near the origin, with its labels.

    Args:
        folder: scan folder; its name is the scan's.
        table: None reads no annotation: no labels, and superpoints are computed by the same
            algorithm (ScanNet's Segmentator, 0.01) where segs.json is missing, as for test scans.
        scale: metres a unit of length of mesh, axis alignment and poses.
    Raises:
        InputError: a missing or truncated file, vertices without colour, counts that disagree, a label
            that the table does not have, coordinates that are not finite.
    """
    name = folder.name
    if not folder.is_dir():
        raise InputError(f"{folder}: no such scan folder")
    meta = read_meta(folder / f"{name}.txt")
    path = folder / f"{name}_vh_clean_2.ply"
    mesh = read_mesh(path, every_vertex=True)
    placed = place_mesh(name, mesh, meta.axis_alignment, scale)
    coord = placed.placement.points(mesh.coord)
    notes = placed.notes
    if meta.unread:
        notes.append(
            f"{meta.path.name}: {len(meta.unread)} lines are no 'key = value' and were not read, the "
            f"first is {meta.unread[0][:60]!r}"
        )
    scan = Scan(placed.scene, {}, meta, path, placed.faces, placed.placement, notes)
    segs = folder / f"{name}_vh_clean_2.0.010000.segs.json"
    if table is None and not segs.exists():
        scan.scene.superpoint = segmentator_superpoints(coord, scan.scene.normal, placed.faces)
        return scan
    raw = read_segments(segs, len(coord))
    scan.scene.superpoint = np.unique(raw, return_inverse=True)[1].astype(np.int32)
    if table is None:
        return scan
    aggregation = folder / f"{name}.aggregation.json"
    if not aggregation.exists() and (folder / f"{name}_vh_clean.aggregation.json").exists():
        aggregation = folder / f"{name}_vh_clean.aggregation.json"
    scan.segments, scan.scene.instance = read_annotation(aggregation, raw, table)
    return scan


def read_meta(path: Path) -> ScanMeta:
    """NAME.txt: lines "key = value", with or without blanks round the sign."""
    missing = "missing; it holds the scan's axis alignment and cameras"
    lines = read_text(path, most_bytes=MOST_META_BYTES, missing=missing, advice=DOWNLOAD)
    values, unread = {}, []
    for line in filter(str.strip, lines.splitlines()):
        key, sign, text = line.partition("=")
        key = key.strip()
        if not sign or not key:
            unread.append(line.strip())
            continue
        try:
            values[key] = np.array([float(number) for number in text.split()])
        except ValueError as error:
            if key in NUMERIC:
                raise InputError(f"{path}: {key} is no list of numbers ({error})") from None
            # Fields of text, like sceneType, are for people.
    alignment = values.get("axisAlignment", np.eye(4).ravel())
    if alignment.size != 16:
        raise InputError(f"{path}: axisAlignment has {alignment.size} numbers; expected 16 (4×4)")
    pose = check_pose(alignment.reshape(4, 4), f"{path}: axisAlignment")
    return ScanMeta(pose, values, path, unread)


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
    if not isinstance(groups, list) or len(groups) > MOST_OBJECTS:
        raise InputError(
            f"{path}: segGroups is no list of at most {MOST_OBJECTS:,} objects; download it again"
        )
    used, point_to_segment = np.unique(segment_of_point, return_inverse=True)
    group_of_segment = np.full(len(used), -1)
    categories = []
    for group in groups:
        label, object_name = str(_field(group, "label", path)), f"{path}: object {len(categories)}"
        members = _whole_numbers(_field(group, "segments", path), f"{object_name}: segments")
        places = np.minimum(np.searchsorted(used, members), len(used) - 1)
        unknown = members[used[places] != members]
        if len(unknown):
            raise InputError(
                f"{object_name} ({label}) names superpoint {unknown[0]}, which segs.json has not; the "
                "two files must be of one mesh: download both again"
            )
        group_of_segment[places] = len(categories)
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
    """The label table as released; the first row of a category counts. A row without category, or whose
    ids are no whole numbers, is left out and noted."""
    columns, rows = read_rows(path, "\t", "expected scannetv2-labels.combined.tsv")
    ids = [column for _, column in LABEL_SETS.values()]
    if not rows or not {"raw_category", *ids} <= set(columns):
        first = ",".join(columns)[:60]
        found = f"columns {first}" if rows else f"no row below its first, {first!r}"
        raise InputError(
            f"{path}: has {found}; expected {', '.join(sorted(['raw_category', *ids]))}, tab-separated, "
            "as in scannetv2-labels.combined.tsv"
        )
    bad = [line for line, row in rows if not _is_readable(row, ids)]
    good = [row for _, row in rows if _is_readable(row, ids)]
    classes = {}
    for name, (label_set, column) in LABEL_SETS.items():
        index = _class_of_source_id(label_set)
        # Reversed, so that the first row of a category wins.
        classes[name] = {
            row["raw_category"]: index.get(row[column].strip().lstrip("0"), -1) for row in reversed(good)
        }
    return LabelTable(path, classes, _left_out(bad))


def _is_readable(row: Row, ids: list[str]) -> bool:
    """Whether a row has a category and, for each set, a whole number or nothing (no class of it)."""
    return bool(row["raw_category"]) and all(
        row[column] is not None and re.fullmatch(r"[0-9]*", row[column].strip()) for column in ids
    )


def _left_out(lines: list[int]) -> list[str]:
    if not lines:
        return []
    named = listing(map(str, lines))
    return [f"{len(lines)} rows without category, or whose ids are no numbers, left out: line {named}"]


def _whole_numbers(values: Any, where: str) -> np.ndarray:
    """A JSON list of whole numbers as (K,) int64."""
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise InputError(f"{where} is no list of whole numbers; download it again")
    return np.array(values, dtype=np.int64)


def _class_of_source_id(label_set: LabelSet) -> dict[str, int]:
    return {str(source_id): index for index, source_id in enumerate(label_set.source_ids)}


def _read_json(path: Path) -> Any:
    missing = "missing; download the scan's annotation again"
    return read_json(path, missing=missing, advice=DOWNLOAD)


def _field(document: Any, key: str, path: Path) -> Any:
    if not isinstance(document, dict) or key not in document:
        raise InputError(f"{path}: has no {key!r}; is it ScanNet's file of that name? Download it again")
    return document[key]
