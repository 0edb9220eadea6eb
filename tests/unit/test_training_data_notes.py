"""What is said of a data set before a training on it."""

from __future__ import annotations

import numpy as np
import pytest

from bifusion.data.dataset import SceneDataset, with_labels
from bifusion.training.preconditions import warn_of_data
from own_classes import make_own_data
from tiny_runs import tiny_config


@pytest.mark.parametrize(
    "what", ["as it should be", "in millimetres", "no objects", "nothing to validate on"]
)
def test_what_is_seldom_meant_is_told_before_training(what, tmp_path, caplog):
    root = make_own_data(tmp_path, train=1, val=1)
    if what == "in millimetres":
        for path in root.glob("*/*/coord.npy"):
            np.save(path, np.load(path) * 1000)
    if what == "no objects":
        for path in root.glob("*/*/instance.npy"):
            path.unlink()
    if what == "nothing to validate on":
        for path in root.glob("val/*/segment.npy"):
            np.save(path, np.full_like(np.load(path), -1))
    data = with_labels(tiny_config("oneformer3d_small", root).data)
    splits = (SceneDataset(data, split, 0, training=split == "train") for split in ("train", "val"))
    warn_of_data(*splits)
    assert ("likely in millimetres" in caplog.text) == (what == "in millimetres")
    assert ("nothing is validated" in caplog.text) == (what == "nothing to validate on")
    assert ("no objects are learned" in caplog.text) == (what == "no objects")
