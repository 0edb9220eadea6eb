"""The ablation end to end: forked runs, interrupted and resumed, taken as they are, reported."""

import json
import re
import signal
import time

import pytest
from rich.console import Console

from bifusion.config.run import save_config
from bifusion.errors import InputError
from bifusion.recipes import get_recipe
from bifusion.studies.ablation.run import AblationConfig, run_ablation
from bifusion.studies.training_runs.forked import start_forked
from tiny_runs import make_tiny_data, tiny_config

BASE = "bifusion_tiny"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=1, val=1)


def wanted(data, out, **settings):
    arms = (f"{BASE}_no_head_norm", f"{BASE}_plan_a")
    grid = ("precision=32-true", "lr=1")
    usual = {"base": BASE, "seeds": (0,), "arms": arms, "grid": grid, "epochs": 3, "jobs": 2}
    return AblationConfig(data=data, out=out, **usual | settings)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder, and what the first and the second call printed."""
    out, printed = tmp_path_factory.mktemp("ablation") / "out", []
    for _ in range(2):
        console = Console(record=True, width=160)
        assert run_ablation(wanted(data, out), console) == 0
        printed.append(console.export_text())
    return out, printed


def test_every_run_is_trained_once_and_reported(finished):
    out, (first, second) = finished
    report = json.loads((out / "ablation.json").read_text())
    assert report["complete"] and report["runs"] == {"completed": 5}
    assert len(report["cells"]) == 3 * 2 and len(report["not_run"]["points"]) == 6
    by_arm = {cell["arm"]: cell for cell in report["cells"] if "range30" in cell["point"]}
    staged, plain = by_arm[BASE], by_arm[f"{BASE}_plan_a"]
    assert plain["shared"] and not staged["shared"]
    assert (
        staged["figures"]["range_in"]["median"] > 30 and plain["figures"]["range_in"]["median"] is None
    )
    assert staged["figures"]["miou"]["median"] is not None and staged["steps"] == 3
    assert "5/5" in first and "taken as it is" not in first
    time_told = "5 of them to be trained, 2 at a time: about .*, by a step of the base and each rival"
    assert "5 runs: 3 arms at 2 points of the grid, 1 seed\n" in first
    assert re.search(time_told, first) and "to be trained" not in second
    assert second.count("finished before, taken as it is") == 5
    assert "ablation.html" in second and "Not run, points" in second


def test_runs_leave_their_records_and_no_checkpoint(finished):
    out, _ = finished
    folders = [path for path in out.iterdir() if (path / "run.json").exists()]
    assert len(folders) == 5
    for folder in folders:
        assert "completed" in (folder / "log.txt").read_text()
        assert not (folder / "checkpoints").exists() and (folder / "evaluation.json").exists()


def test_a_folder_of_another_setting_is_refused(finished, data):
    with pytest.raises(InputError, match="another configuration"):
        run_ablation(wanted(data, finished[0], epochs=4), Console(quiet=True))


def test_a_run_that_crashes_takes_no_other_with_it(data, tmp_path, monkeypatch):
    def broken(name):
        config = get_recipe(name)
        if "head_norm" in name:
            config.model.fusion.alignment = False  # its stages still train the predictor
        return config

    monkeypatch.setattr("bifusion.studies.training_runs.plan.get_recipe", broken)
    monkeypatch.setattr("bifusion.studies.grids.run.check_runs", lambda runs: None)
    settings = wanted(data, tmp_path, grid=("precision=32-true", "lr=1", "range=1"))
    console = Console(record=True, width=160)
    assert run_ablation(settings, console) == 1
    report = json.loads((tmp_path / "ablation.json").read_text())
    assert report["runs"] == {"completed": 2, "crashed": 1}
    assert report["not_run"]["crashed"] == [f"{BASE}_no_head_norm-lr1-range1-32-true-seed0"]
    assert "align match no parameter group" in console.export_text()


def test_a_forked_run_saves_when_interrupted_and_goes_on(data, tmp_path):
    config = tiny_config("bifusion_small", data, epochs=400)
    config.trainer.eval_every = 1000
    save_config(config, tmp_path / "run.json")
    run = start_forked(tmp_path / "run.json", tmp_path, 1, {})
    deadline = time.monotonic() + 300
    steps = tmp_path / "steps.jsonl"
    while not (steps.exists() and steps.read_text().count("\n") > 4):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    assert run.wait(300) == 130
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "interrupted" and (tmp_path / "checkpoints" / "last").exists()
    again = start_forked(tmp_path / "run.json", tmp_path, 1, {})
    while json.loads((tmp_path / "status.json").read_text())["state"] == "interrupted":
        assert again.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    again.kill()
    assert again.wait(300) == -signal.SIGKILL
    numbers = [json.loads(line)["step"] for line in steps.read_text().splitlines()[:5]]
    assert numbers == [0, 1, 2, 3, 4], "what was there before is kept"
