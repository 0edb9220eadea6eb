"""Whole runs on a device that is pretended: nothing of them is left on the CPU, and a step hardly waits.

The third of four proofs of the GPU path that need no GPU. `tests/pretended_runs.py` runs them, in a
process of its own; what the sparse engine asks of the device on its own account is told apart.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_runs import make_tiny_data

TESTS = Path(__file__).resolve().parent.parent
WAITS = {"oneformer3d_small": 2, "bifusion_tiny": 3, "mask3d_tiny": 3}
"""What a whole step waits for: the matching, the guard's figures; and the sightings of the views, or the
sizes of the pyramid's levels."""
ENGINE_WAITS = 40
"""Of the sparse operations' own, in a step: coordinates of the levels and their tables."""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    data = make_tiny_data(tmp_path_factory.mktemp("rooms"), train=2, val=1)
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, str(TESTS / "pretended_runs.py"), str(data), str(folder), *WAITS]
    paths = [str(TESTS), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def of_the_product(stalls):
    return [f"{kind} {place}" for kind, place in stalls if not place.startswith("sparse/")]


@pytest.mark.parametrize("recipe", WAITS)
def test_a_run_trains_validates_resumes_and_predicts_on_the_device(record, recipe):
    run = record[recipe]
    assert run["states"] == ["interrupted", "completed"] and run["saved"]
    assert run["events"] == [None, None, ["loss.mask_dice"]]
    assert run["predicted"] == ["instance.ply", "instances.json", "semantic.ply"]


@pytest.mark.parametrize("recipe", WAITS)
def test_a_step_of_the_device_is_replayed_on_the_cpu(record, recipe):
    """The NaN of the run was put there from outside: the replayed step is sound."""
    again, then = record[recipe]["losses"]
    assert record[recipe]["replayed"] is None
    assert len(again) == len(then) > 0
    assert [now for now, before in zip(again, then, strict=True) if before is not None] == pytest.approx(
        [before for before in then if before is not None], rel=1e-4
    )


@pytest.mark.parametrize("recipe", WAITS)
def test_a_whole_step_waits_for_the_device_three_times_at_most(record, recipe):
    steps = record[recipe]["stalls"]["step"]
    assert len(steps) == 3
    for stalls in steps:
        assert len(of_the_product(stalls)) <= WAITS[recipe] <= 3, of_the_product(stalls)
        assert len(stalls) - len(of_the_product(stalls)) <= ENGINE_WAITS


@pytest.mark.parametrize("recipe", WAITS)
def test_every_wait_of_a_step_is_known(record, recipe):
    """One copy each: no line of the product makes the host wait twice."""
    for stalls in record[recipe]["stalls"]["step"]:
        places = [place.split(":")[0] for place in (p for _, p in stalls) if not place.startswith("sparse/")]
        assert len(places) == len(set(places))
        assert places[-1] == "step/figures.py"


def test_a_tensor_left_on_the_cpu_is_caught(record):
    assert "a CPU tensor (16,) meets one on the device" in record["failures"]["mixed"]


def test_every_way_to_wait_is_counted_and_nothing_else(record):
    for name, kinds in record["failures"]["counted"].items():
        assert name in kinds, name
    assert record["failures"]["free"] == [] and record["failures"]["ran"] == 2
