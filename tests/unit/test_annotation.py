"""What is read off a data set as a whole: instances from 0 or from 1, and those of several classes."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from bifusion.data.annotation import Annotation, find_annotation
from bifusion.data.dataset import DataConfig, SceneDataset
from own_classes import ROOMS7, make_own_data


def dataset(root, **options) -> SceneDataset:
    config = DataConfig(root=root, labels=ROOMS7, voxel_size_m=0.12)
    return SceneDataset(config, "train", 0, training=False, **options)


def test_zero_is_none_where_the_scenes_say_so(tmp_path, caplog):
    ours = dataset(make_own_data(tmp_path / "ours"))
    with caplog.at_level(logging.WARNING):
        theirs = dataset(make_own_data(tmp_path / "theirs", from_one=True))
    assert ours.annotation == Annotation() and theirs.annotation.zero_is_none
    assert (
        f"{tmp_path / 'theirs'}: instance.npy numbers instances from 1, with 0 for none" in caplog.text
    )
    truths = [data.sample(0, epoch=0).truth for data in (ours, theirs)]
    assert truths[0] is not None and truths[1] is not None
    assert ((truths[0].instance >= 0) == (truths[1].instance >= 0)).all()
    assert set(np.unique(truths[1].instance)) == {-1, 1, 2}


def test_unassigned_things_are_no_instance(tmp_path):
    """Chairs that nobody numbered have 0 with the walls: one instance of all of them would be wrong."""
    root = make_own_data(tmp_path, from_one=True)
    for path in root.glob("*/*/instance.npy"):
        segment, instance = np.load(path.with_name("segment.npy")), np.load(path)
        np.save(path, np.where(segment == 5, 0, instance))
    sample = dataset(root).sample(0, epoch=0)
    assert sample.truth is not None
    assert set(sample.truth.instance[sample.truth.semantic == 5]) == {-1}
    assert len(sample.targets.masks) == 1


@pytest.mark.parametrize("negative", [True, False])
def test_a_true_instance_zero_stays(tmp_path, negative):
    """With a −1 somewhere, or where it is of one class, instance 0 is an instance."""
    root = make_own_data(tmp_path)
    if not negative:  # every point in an instance, walls and floors too, as S3DIS numbers them
        for path in root.glob("*/*/instance.npy"):
            segment, instance = np.load(path.with_name("segment.npy")), np.load(path)
            np.save(path, np.where(instance < 0, 10 + segment, instance))
    data = dataset(root)
    assert not data.annotation.zero_is_none
    assert len(data.sample(0, epoch=0).targets.masks) == 2


def test_an_instance_of_several_classes_is_said(tmp_path, caplog):
    root = make_own_data(tmp_path)
    path = next(root.glob("train/*/instance.npy"))
    segment, instance = np.load(path.with_name("segment.npy")), np.load(path)
    some = np.flatnonzero(instance == 1)[:3]
    segment[some] = 3
    np.save(path.with_name("segment.npy"), segment)
    with caplog.at_level(logging.WARNING):
        find_annotation(root, ROOMS7)
    chair = int(((instance == 1) & (segment == 5)).sum())
    said = f"1 of the 3 instances looked at have points of several classes (first: {path.parent.name}, "
    assert said + f"instance 1: {chair} points chair, 3 points door)" in caplog.text


def test_instances_numbered_anew_in_each_class_are_told_as_that(tmp_path, caplog):
    root = make_own_data(tmp_path)
    for path in root.glob("*/*/instance.npy"):
        segment, instance = np.load(path.with_name("segment.npy")), np.load(path)
        things = np.flatnonzero(instance >= 0)
        np.save(path, np.where(instance < 0, -1, 1))
        segment[things] = np.where(np.arange(len(things)) % 2, 3, 5)
        np.save(path.with_name("segment.npy"), segment)
    with caplog.at_level(logging.WARNING):
        find_annotation(root, ROOMS7)
    assert "numbered anew in each class: number them through" in caplog.text


def test_labels_can_be_left_alone(tmp_path):
    root = make_own_data(tmp_path)
    for path in root.glob("train/*/segment.npy"):
        np.save(path, np.full(len(np.load(path)), 149, np.int16))
    sample = dataset(root, annotated=False).sample(0, epoch=0)
    assert not sample.annotated and (sample.targets.semantic == ROOMS7.num_classes).all()
