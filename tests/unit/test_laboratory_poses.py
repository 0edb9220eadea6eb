"""Wrong cameras that `laboratory.poses` puts into right views."""

import numpy as np
import pytest
from laboratory.poses import faults, measure

from bifusion.data.dataset import DataConfig
from tiny_runs import make_tiny_data


def test_right_cameras_are_let_pass_and_impossible_ones_found(tmp_path):
    scenes = sorted(make_tiny_data(tmp_path, train=0, val=2).glob("val/*"))
    told = measure(scenes, DataConfig(image_size=64))
    assert set(told) == {fault.name for fault in faults()}
    assert (told["none"]["tried"], told["none"]["found"], told["none"]["moved_m"]) == (4, 0, 0)
    moved = told["moved by 40 cm"]
    assert moved["tried"] == 16 and moved["moved_m"] == pytest.approx(0.4)
    assert told["y and z of the camera turned round"]["found"] > 0
    turned = [told[f"turned by {degrees}°"]["moved_m"] for degrees in (1, 2, 5, 10, 20)]
    assert np.all(np.diff(turned) > 0)
