"""Files written for a prediction, read back."""

from __future__ import annotations

import errno
import json
from unittest.mock import Mock

import jsonschema
import numpy as np
import pytest
from plyfile import PlyData

from bifusion.inference import export
from bifusion.inference.export import INSTANCES_SCHEMA, point_segments, write_result
from bifusion.inference.segmentation import as_segmentation
from bifusion.labels.label_set import LabelSet
from bifusion.labels.palette import (
    NONE_COLOR,
    class_palette,
    color_classes,
    color_instances,
    distinct_color,
)
from bifusion.labels.sets import SCANNET20, SCANNET200
from bifusion.storage.files import DiskFullError, written_beside
from bifusion.types import SceneResult
from bifusion.wording import plural

COORD = np.array([[0, 0, 0], [1, 0, 0], [1, 2, 0], [1, 2, 3], [5, 5, 5]], dtype=np.float32)
CHAIR, TABLE = 4, 6


def overlapping_result(**parts) -> SceneResult:
    """A chair (0.9) on points 1–3, a table (0.4) on 2–4, an empty mask."""
    masks = np.array([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=bool)
    return SceneResult(
        name="room",
        num_points=5,
        masks=np.packbits(masks, axis=1),
        labels=np.array([CHAIR, TABLE, TABLE], dtype=np.int16),
        scores=np.array([0.9, 0.4, 0.1], dtype=np.float32),
        **parts,
    )


PANOPTIC = {
    "semantic": np.array([0, 4, 4, 6, -1], dtype=np.int16),
    "panoptic_semantic": np.array([0, 4, 4, 6, 6], dtype=np.int16),
    "panoptic_instance": np.array([-1, 0, 0, 1, 1], dtype=np.int32),
}


def test_ply_files_carry_position_class_and_instance(tmp_path) -> None:
    paths = write_result(tmp_path / "new" / "folder", overlapping_result(**PANOPTIC), COORD, SCANNET20)
    assert [path.name for path in paths] == ["semantic.ply", "instance.ply", "instances.json"]
    semantic = PlyData.read(str(paths[0]))
    assert not semantic.text
    assert "label 4 chair" in semantic.comments
    vertices = semantic["vertex"]
    assert [p.name for p in vertices.properties] == [
        "x", "y", "z", "red", "green", "blue", "label", "instance",
    ]  # fmt: skip
    assert np.array_equal(np.column_stack([vertices[axis] for axis in "xyz"]), COORD)
    assert vertices["label"].tolist() == [0, 4, 4, 6, -1]
    assert (vertices["red"][0], vertices["green"][0], vertices["blue"][0]) == (174, 199, 232)
    assert vertices["red"][4] == NONE_COLOR[0]
    instances = PlyData.read(str(paths[1]))["vertex"]
    assert instances["instance"].tolist() == [-1, 0, 0, 1, 1]
    assert instances["label"].tolist() == [0, 4, 4, 6, 6]
    assert (instances["red"][3], instances["green"][3], instances["blue"][3]) == distinct_color(1)


def test_a_prediction_that_cannot_be_written_leaves_the_former_one(tmp_path, monkeypatch) -> None:
    paths = write_result(tmp_path, overlapping_result(**PANOPTIC), COORD, SCANNET20)
    (tmp_path / "view.html").write_text("its page")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(export, "write_instances_json", Mock(side_effect=full))
    with pytest.raises(DiskFullError, match="What was there before is intact"):
        write_result(tmp_path, overlapping_result(), COORD + 1, SCANNET20)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert [path.name for path in paths] == ["semantic.ply", "instance.ply", "instances.json"]


def test_instances_json_follows_its_schema(tmp_path) -> None:
    listing = write_result(tmp_path, overlapping_result(**PANOPTIC), COORD, SCANNET20)[2]
    document = json.loads(listing.read_text())
    jsonschema.validate(document, INSTANCES_SCHEMA)
    chair, table = document["instances"]  # the empty mask is left out
    assert (chair["class"], chair["label"], chair["num_points"]) == ("chair", CHAIR, 3)
    assert (chair["id"], table["id"]) == (0, 1)
    assert chair["score"] == pytest.approx(0.9)
    assert chair["bounds_m"] == {"min": [1, 0, 0], "max": [1, 2, 3]}
    assert table["bounds_m"] == {"min": [1, 2, 0], "max": [5, 5, 5]}
    assert [(s["id"], s["class"], s["num_points"]) for s in document["segments"]] == [
        (0, "chair", 2),
        (1, "table", 2),
    ]


def test_without_panoptic_part_the_best_mask_takes_the_point() -> None:
    semantic, instance = point_segments(overlapping_result())
    assert semantic.tolist() == [-1, CHAIR, CHAIR, CHAIR, TABLE]
    assert instance.tolist() == [-1, 0, 0, 0, 1]


def test_objects_are_told_apart_from_candidates() -> None:
    third = {**PANOPTIC, "panoptic_instance": np.array([-1, 2, 2, 2, -1], np.int32)}
    for result, objects in (
        (overlapping_result(), 2),
        (overlapping_result(**PANOPTIC), 2),
        (overlapping_result(**third), 1),
    ):
        told = as_segmentation(result, COORD, SCANNET20, []).describe_objects()
        assert told == f"{plural(objects, 'object')} (3 candidates)"


def test_scene_without_instances(tmp_path) -> None:
    empty = SceneResult(
        "room", 5, np.zeros((0, 1), np.uint8), np.zeros(0, np.int16), np.zeros(0, np.float32)
    )
    paths = write_result(tmp_path, empty, COORD, SCANNET200)
    document = json.loads(paths[2].read_text())
    jsonschema.validate(document, INSTANCES_SCHEMA)
    assert document["instances"] == document["segments"] == []
    assert PlyData.read(str(paths[0]))["vertex"]["label"].tolist() == [-1] * 5


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_beside(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("label_set", [SCANNET20, SCANNET200], ids=lambda s: s.name)
def test_every_class_has_its_own_color(label_set) -> None:
    palette = class_palette(label_set)
    assert palette.shape == (label_set.num_classes, 3)
    assert len(np.unique(np.vstack([palette, [NONE_COLOR]]), axis=0)) == label_set.num_classes + 1


def test_colors_of_labels() -> None:
    assert color_classes(np.array([1, -1]), SCANNET20).tolist() == [[152, 223, 138], list(NONE_COLOR)]
    colors = color_instances(np.array([5, -1, 5, 2]))
    assert colors[0].tolist() == colors[2].tolist() == list(distinct_color(5))
    assert colors[1].tolist() == list(NONE_COLOR)
    assert color_instances(np.zeros(0, int)).shape == (0, 3)


def test_class_names_of_any_language(tmp_path) -> None:
    """A PLY header is ASCII; the list of instances is not."""
    labels = LabelSet.of("Räume", ("Wände", "机器"), stuff_classes=(0,))
    result = SceneResult(
        name="room",
        num_points=2,
        masks=np.packbits([[False, True]], axis=1),
        labels=np.array([1], np.int16),
        scores=np.array([0.5], np.float32),
    )
    paths = write_result(tmp_path, result, COORD[:2], labels)
    assert "label 1 \\u673a\\u5668" in PlyData.read(str(paths[0])).comments
    assert json.loads(paths[2].read_text())["instances"][0]["class"] == "机器"
