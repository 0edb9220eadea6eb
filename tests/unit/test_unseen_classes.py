"""Classes that no training scene shows are told by `bifusion check`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bifusion.datasets.check import check_data
from bifusion.datasets.check.unseen import unseen_classes
from bifusion.labels.files import labels_text
from bifusion.labels.label_set import LabelSet
from own_classes import NAMES, ROOMS7
from scene_factory import make_tiny_scene

TRAIN = Path("data/train")


def said(*scenes: set[int]) -> list[str]:
    shown = [{"rooms7": frozenset(scene)} for scene in scenes]
    return [finding.message for finding in unseen_classes(ROOMS7, TRAIN, shown)]


@pytest.mark.parametrize(
    "scenes",
    [
        [{-1, 0, 1, 2}, {3, 4, 5, 6}],
        [{-1}],  # a scene without a class is told as such
        [],
    ],
)
def test_nothing_to_say(scenes):
    assert said(*scenes) == []
    assert list(unseen_classes(ROOMS7, TRAIN, [{"scannet20": frozenset({1})}])) == []


def test_what_is_never_shown_is_named():
    (message,) = said({0, 1, 2}, {3, 4, -1})
    assert f"of the 7 classes of rooms7: {NAMES[5]} (5), {NAMES[6]} (6)" in message
    assert "count from 0" not in message


def test_labels_that_count_from_1():
    (message,) = said({1, 2, 3}, {4, 5, 6, 7})
    assert f"no point is of 1 of the 7 classes of rooms7: {NAMES[0]} (0)" in message
    assert f"labels count from 0, {NAMES[0]}: subtract 1 if yours count from 1" in message


def test_labels_that_may_be_ids_or_only_lack_a_class():
    (message,) = said({1, 2, 3}, {4, 5, 6})
    assert "subtract 1" not in message and "are ids of" not in message
    numbered = LabelSet.of("rooms7", NAMES, source_ids=range(1, 8), stuff_classes=(0, 1, 2))
    (finding,) = unseen_classes(numbered, TRAIN, [{"rooms7": frozenset({1, 2, 6})}])
    assert (
        "all labels found are ids of classes: if they are meant, replace each by its" in finding.message
    )


def test_a_broken_table_of_classes_is_told_once(tmp_path):
    scene = make_tiny_scene(tmp_path / "train" / "room", num_views=0)
    (scene / "segment20.npy").rename(scene / "segment.npy")
    (scene / "segment200.npy").unlink()
    (tmp_path / "labels.json").write_text("{")
    messages = [finding.message for finding in check_data(scene, workers=0).findings]
    messages += [
        m for one in check_data(tmp_path, workers=0).findings if "val:" not in (m := one.message)
    ]
    assert len(messages) == 2 and all("labels.json: not valid JSON" in message for message in messages)


def test_check_says_it_of_a_whole_data_set_once(tmp_path):
    (tmp_path / "labels.json").write_text(labels_text(ROOMS7))
    for split, label in (("train", 2), ("val", 5)):
        scene = make_tiny_scene(tmp_path / split / f"{split}0", seed=len(split), num_views=0)
        (scene / "segment20.npy").rename(scene / "segment.npy")
        np.save(scene / "segment.npy", np.full_like(np.load(scene / "segment.npy"), label))
    messages = [finding.message for finding in check_data(tmp_path, workers=0).findings]
    assert len(messages) == 1 and "6 of the 7 classes" in messages[0]
    assert check_data(tmp_path / "train", workers=0).findings == []
