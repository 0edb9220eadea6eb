"""The audit's probe can tell and can fail to tell; the audit file is complete and plain JSON."""

import dataclasses
import json

import numpy as np
import pytest

from bifusion.datasets.rooms import TEXTURE_CLASSES, TEXTURE_GROUPS, RoomsConfig, make_rooms, make_scan
from bifusion.datasets.rooms.audit import audit
from bifusion.datasets.rooms.audit_lines import audit_lines
from bifusion.datasets.rooms.probe import image_features, probe_predictions, voxel_features
from bifusion.datasets.rooms.superpoint_oracle import oracle_result
from bifusion.errors import InputError
from bifusion.labels.sets import SCANNET20
from bifusion.types import SceneTruth
from run_factory import AUDIT

SMALL = RoomsConfig(
    train_rooms=2,
    val_rooms=1,
    views=2,
    image_size=(160, 120),
    depth_size=(120, 90),
    point_spacing_m=0.06,
)


def wall_panel(rng, period_m, upright):
    """Points of a striped panel, 0.9 m × 0.9 m."""
    coord = rng.uniform(0, 0.9, (1200, 3)) * (1, 0, 1)
    along = coord[:, 0 if upright else 2] / period_m + rng.uniform()
    grey = 120 + 40 * np.sign(np.sin(2 * np.pi * along)) + rng.normal(0, 3, len(coord))
    return coord.astype(np.float32), np.tile(grey[:, None], (1, 3))


def accuracy(features, labels, num_classes):
    half = len(labels) // 2
    return (
        probe_predictions(features[:half], labels[:half], features[half:], num_classes) == labels[half:]
    ).mean()


def test_probe_finds_stripes_wider_than_voxels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    panels = [wall_panel(rng, 0.3, bool(label)) for label in labels]
    features = np.stack([voxel_features(coord, color, 0.06) for coord, color in panels])
    assert accuracy(features, labels, 2) > 0.9


def test_probe_is_at_chance_on_unrelated_labels():
    rng = np.random.default_rng(0)
    assert abs(accuracy(rng.normal(size=(400, 29)), rng.integers(0, 4, 400), 4) - 0.25) < 0.09


def test_image_features_tell_stripes_apart():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    crops = []
    for label in labels:
        wave = np.sign(np.sin(2 * np.pi * (np.arange(40) / 6 + rng.uniform())))
        image = 120 + 40 * np.tile(wave, (40, 1)) + rng.normal(0, 5, (40, 40))
        crops.append(np.repeat((image.T if label else image)[..., None], 3, axis=2))
    assert accuracy(np.stack([image_features([crop]) for crop in crops]), labels, 2) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("blur_m", "told"), [(RoomsConfig().color_blur_m, False), (0.0, True)])
def test_voxels_of_rooms_tell_texture_classes_only_from_sharp_points(blur_m, told):
    config = dataclasses.replace(
        RoomsConfig(), color_blur_m=blur_m, panels=(2, 2), boxes=(7, 8), furniture=(0, 0)
    )
    classes = TEXTURE_GROUPS["boxes"]
    features, labels = [], []
    for index in range(40):
        scene, _ = make_scan(config, "train", index)
        for instance in range(scene.instance.max() + 1):
            rows = scene.instance == instance
            label = SCANNET20.class_names[scene.segment[rows][0]] if rows.any() else ""
            if label in classes:
                features.append(voxel_features(scene.coord[rows], scene.color[rows], 0.06))
                labels.append(classes.index(label))
    found = accuracy(np.stack(features), np.array(labels), 4)
    margin = 3 * np.sqrt(0.25 * 0.75 / (len(labels) / 2))
    assert (found > 0.25 + margin) == told


def test_audit_of_small_rooms(tmp_path):
    make_rooms(tmp_path, SMALL, workers=1)
    result = audit(tmp_path, 0.06, fresh_rooms=1)
    assert json.loads((tmp_path / "audit.json").read_text()) == result
    assert result["texture_classes"] == list(TEXTURE_CLASSES)
    assert result["rooms"] == {"train": 2, "val": 1}
    assert result["probe"]["voxels"]["panels"]["chance"] == 0.25
    assert result["probe"]["images"]["panels"]["val"]["instances"] > 0
    assert 0.8 < result["superpoint_oracle"]["miou"] <= 1
    assert 0 < result["seen_share"]["val"]["all"] < 1
    assert sum(result["points"]["train"].values()) > 1000
    assert result["config"]["texture_contrast"] == 1
    assert len(audit_lines(result)) == 4


def test_an_audit_is_told_in_a_few_lines():
    assert audit_lines(AUDIT) == [
        "told apart by colour and geometry of voxels alone: panels 0.52 (chance 0.50)",
        "told apart by pictures alone: panels 0.94 (chance 0.50)",
        "views see 47% of the points to validate on",
        "the best that superpoints allow: mIoU 0.93, AP 0.88",
    ]
    nothing = {**AUDIT, "probe": {"voxels": {"panels": None}, "images": {}}, "superpoint_oracle": None}
    lines = audit_lines(nothing)
    assert lines[0].endswith("alone: nothing to tell apart")
    assert len(lines) == 3


def test_audit_without_views_and_validation_rooms(tmp_path):
    make_rooms(tmp_path, dataclasses.replace(SMALL, train_rooms=1, val_rooms=0, views=0), workers=1)
    result = audit(tmp_path, 0.06, fresh_rooms=0)
    assert result["superpoint_oracle"] is None
    assert result["probe"]["images"]["panels"] is None
    assert result["seen_share"]["train"]["all"] == 0
    assert "views see 0% of the points to train on" in audit_lines(result)


def test_audit_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no rooms"):
        audit(tmp_path, 0.06)


def test_oracle_gives_each_superpoint_its_most_frequent_label():
    truth = SceneTruth("a", np.array([2, 2, 3, 3, 0, -1]), np.array([0, 0, 4, 4, -1, -1]))
    result = oracle_result(np.array([0, 0, 0, 1, 2, 3]), truth)
    assert result.semantic.tolist() == [2, 2, 2, 3, 0, -1]
    assert result.point_masks().astype(int).tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]
    assert result.labels.tolist() == [2, 3]


def test_oracle_of_a_scene_without_labels():
    nothing = np.full(4, -1)
    result = oracle_result(np.array([0, 0, 1, 1]), SceneTruth("a", nothing, nothing))
    assert result.semantic.tolist() == [-1] * 4
    assert result.masks.shape[0] == 0
