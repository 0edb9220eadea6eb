"""The sweep end to end: a rate that trains and one that ends at its first number that is not finite."""

import json

import pytest
from rich.console import Console

from bifusion.studies.sweep.run import SweepConfig, run_sweep
from tiny_runs import make_tiny_data

BASE = "bifusion_tiny"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder, and what the first and the second call printed."""
    root = tmp_path_factory.mktemp("sweep")
    data, out, printed = make_tiny_data(root / "rooms", train=1, val=1), root / "out", []
    grid = ("lr=1,1e30", "condition=plain")
    wanted = SweepConfig(
        data=data, base=BASE, out=out, seeds=(0,), arms=("naive",), grid=grid, epochs=3, jobs=2
    )
    for _ in range(2):
        console = Console(record=True, width=160)
        assert run_sweep(wanted, console) == 0
        printed.append(console.export_text())
    return out, printed


def test_the_time_is_told_first_and_finished_runs_are_taken_as_they_are(finished):
    _, (first, second) = finished
    assert first.index("2 runs: 1 arm at 2 rates") < first.index("2 of them to be trained, 2 at a time")
    assert "2/2" in first and "to be trained" not in second
    assert second.count("finished before, taken as it is") == 2 and "sweep.html" in second


def test_a_rate_beyond_all_bounds_ends_at_its_first_fault_with_its_place(finished):
    report = json.loads((finished[0] / "sweep.json").read_text())
    assert report["complete"] and report["runs"] == {"completed": 1, "guard_stopped": 1}
    (curve,) = report["curves"]
    usual, broken = (rate["runs"][0] for rate in curve["rates"])
    assert usual["state"] == "completed" and usual["steps"] == 3
    first = broken["breaks"][0]
    assert broken["verdict"] == first["kind"] == "non-finite" and first["step"] == broken["steps"] - 1
    steps = (finished[0] / broken["folder"] / "steps.jsonl").read_text().splitlines()
    event = json.loads(steps[first["step"]])["event"]
    assert event["action"] == "stop" and first["where"].startswith(", ".join(event["where"]))
    assert event["diagnosis"]["module"] in first["where"]
    assert curve["rates"][1]["figures"]["raw_nonfinite"]["mean"] == 1
    assert curve["rates"][1]["figures"]["miou"]["mean"] == 0
