"""Whole runs on a device that is pretended: nothing of them is left on the CPU, and a step hardly waits.

The third of four proofs of the GPU path that need no GPU. `tests/pretended_runs.py` runs them, in a
process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

from tiny_runs import make_tiny_data

TESTS = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_DummyBackendModule"),
    reason="this PyTorch takes no backend that is written in Python",
)
RECIPES = ("oneformer3d_small", "bifusion_tiny", "mask3d_tiny")
WAITS = ["sparse/coordinates.py", "losses/matching.py", "step/figures.py"]
"""Every wait of a whole training step, in order: coordinates of the levels, and with them what the views
see (BiFusion) or the sizes of the pyramid (Mask3D); matching; all figures of guard and monitor."""

_RESULTS = ["models/postprocess.py"] * 6
_NAN = "inference/nan_answers.py"
PREDICTION_WAITS = {
    "oneformer3d_small": ["sparse/coordinates.py", *_RESULTS, _NAN],
    "bifusion_tiny": ["sparse/coordinates.py", "evaluation/fusion_figures.py", *_RESULTS, _NAN],
    "mask3d_tiny": [
        "sparse/coordinates.py", *["models/postprocess_mask3d.py"] * 4, "models/postprocess.py", _NAN
    ],
}  # fmt: skip
"""Those of a prediction: coordinates; the share of the points that views see; then superpoints of the
points, how many instances are kept, their masks, scores and classes, labels of the superpoints. Mask3D's
masks are cut into parts on the host, for which it wants positions, superpoints, classes and masks. Last,
when the device has done all its work, whether there was a NaN."""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    data = make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, str(TESTS / "pretended_runs.py"), str(data), str(folder), *RECIPES]
    paths = [str(TESTS), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_trains_validates_resumes_and_predicts_on_the_device(record, recipe):
    run = record[recipe]
    assert run["states"] == ["interrupted", "completed"] and run["saved"]
    assert run["events"] == [None, None, ["loss.mask_dice"]]
    assert run["predicted"] == ["instance.ply", "instances.json", "semantic.ply"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_of_the_device_is_replayed_on_the_cpu(record, recipe):
    """The NaN of the run was put there from outside: the replayed step is sound."""
    again, then = record[recipe]["losses"]
    assert record[recipe]["replayed"] is None
    assert len(again) == len(then) > 0
    assert [now for now, before in zip(again, then, strict=True) if before is not None] == pytest.approx(
        [before for before in then if before is not None], rel=1e-4
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_wait_of_a_whole_training_step_is_known(record, recipe):
    """Guard, monitor and optimiser included; the third step meets a fault."""
    steps = record[recipe]["stalls"]["step"]
    assert len(steps) == 3
    for stalls in steps:
        assert [place.split(":")[0] for _, place in stalls] == WAITS, stalls


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_wait_of_a_prediction_is_known(record, recipe):
    """From a scene on the device to masks and labels on the host."""
    (stalls,) = record[recipe]["stalls"]["prediction"]
    assert [place.split(":")[0] for _, place in stalls] == PREDICTION_WAITS[recipe], stalls


def test_a_tensor_left_on_the_cpu_is_caught(record):
    assert "a CPU tensor (16,) meets one on the device" in record["failures"]["mixed"]


def test_every_way_to_wait_is_counted_and_nothing_else(record):
    for name, kinds in record["failures"]["counted"].items():
        assert name in kinds, name
    assert record["failures"]["free"] == [] and record["failures"]["ran"] == 2
