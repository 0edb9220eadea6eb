"""Short forms of `make replay-test` and `make healthy`; that of `make resume-test` is in test_resume,
that of `make attribution` in test_tracing, that of `make faults` in test_faults."""

import dataclasses

import pytest

from bifusion.studies.figures.run import load_run
from forked_runs import subprocesses
from load_tool import load_tool
from run_factory import FakeRun
from tiny_runs import make_tiny_data


@pytest.mark.parametrize("defect", ["moment", "threshold"])
def test_a_kept_step_is_the_same_in_another_process(tmp_path, monkeypatch, defect):
    tool = load_tool("replay_test")
    monkeypatch.setattr(tool, "subprocess", subprocesses)
    data = make_tiny_data(tmp_path / "rooms", train=4, val=1)
    case = dataclasses.replace(tool.Case.drawn(2, seed=1), defect=defect, threads=1)
    assert case.recipe == "bifusion_small"
    assert tool.run_case(case, data, tmp_path) is None


def test_a_case_without_its_step_is_a_failure(tmp_path, monkeypatch):
    tool = load_tool("replay_test")
    data = make_tiny_data(tmp_path / "rooms", train=4, val=1)
    monkeypatch.setattr(tool, "spoil", lambda *args: None)
    problem = tool.run_case(tool.Case.drawn(0, seed=1), data, tmp_path)
    assert problem is not None and "kept [] instead of step" in problem


@pytest.mark.parametrize(
    ("fake", "problems"),
    [
        (FakeRun(), []),
        (FakeRun(warnings=1), []),
        (FakeRun(warnings=2, rollbacks=1), ["1 rollbacks", "2 warnings"]),
        (FakeRun(nonfinite={3: 2}), ["2 non-finite steps", "2 skipped steps"]),
        (FakeRun(state="guard_stopped"), ["the run did not end by itself"]),
    ],
)
def test_what_a_healthy_run_must_not_show(tmp_path, fake, problems):
    told = load_tool("healthy_runs").problems_of(load_run(fake.write(tmp_path)))
    assert [text.split(": ")[1] for text in told] == problems


@pytest.mark.parametrize(
    ("recipe", "own", "at_most"),
    [
        ("oneformer3d_small", "models/oneformer3d.py", 37),
        ("bifusion_tiny", "models/fusion.py", 51),
    ],
)
def test_a_scene_can_be_followed_from_disk_to_metrics(tmp_path, recipe, own, at_most):
    files = load_tool("follow_scene").follow(recipe, make_tiny_data(tmp_path, train=0, val=1))
    order = [list(files).index(name) for name in ("data/scene_folder.py", "data/batching.py", own)]
    assert order == sorted(order)
    assert "evaluation/semantic.py" in files
    assert len(files) <= at_most, f"a reader has more files to open: {list(files)}"
