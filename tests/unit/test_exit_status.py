"""Exit statuses tell a result, a run that its guard stopped, from a crash."""

import io

import pytest
from rich.console import Console

import bifusion.inference.train_and_evaluate
from bifusion.commands import train as command
from bifusion.recipes import get_recipe
from bifusion.runs.run_folder import RunStatus
from bifusion.storage.json_files import write_json
from bifusion.studies.training_runs import train
from bifusion.studies.training_runs.plan import PlannedRun


@pytest.mark.parametrize(
    ("state", "status", "evaluated"),
    [("completed", 0, 1), ("guard_stopped", 4, 1), ("interrupted", 130, 0)],
)
def test_of_a_run(monkeypatch, tmp_path, state, status, evaluated):
    evaluations = []
    module = bifusion.inference.train_and_evaluate
    monkeypatch.setattr(module, "train", lambda *args, **kw: RunStatus(state))
    monkeypatch.setattr(module, "evaluate_run", evaluations.append)
    assert command.train(["oneformer3d_small", "--out", str(tmp_path)]) == status
    assert len(evaluations) == evaluated


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("completed", "completed already, after 2 epochs; figures in "),
        ("guard_stopped", "stopped by its guard already, after 2 epochs; figures in "),
    ],
)
def test_a_run_that_had_ended_says_so(monkeypatch, tmp_path, capsys, state, told):
    ended, module = RunStatus(state, epochs_done=2), bifusion.inference.train_and_evaluate
    monkeypatch.setattr(module, "evaluate_run", lambda folder: None)
    arguments = ["oneformer3d_small", "--out", str(tmp_path), "--resume"]
    monkeypatch.setattr(module, "train", lambda *args, **kw: ended)
    command.train(arguments)
    assert "already" not in capsys.readouterr().out  # it ended just now
    write_json(tmp_path / "status.json", ended)
    command.train(arguments)
    said = capsys.readouterr().out
    assert f"{tmp_path}: {told}{tmp_path / 'evaluation.json'}" in said and said.count("\n") == 1
    assert ("--trainer.epochs" in said) == (state == "completed")


def test_what_ended_several_runs_is_told_once(monkeypatch, tmp_path):
    monkeypatch.setattr(train, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(train, "_start", lambda *args: Ended(2))
    planned = [PlannedRun(get_recipe("oneformer3d_small"), tmp_path / name) for name in "abc"]
    for run, end in zip(planned, ("the same", "the same", "another"), strict=True):
        run.folder.mkdir()
        (run.folder / "log.txt").write_text(f"{run.folder.name}: epoch 1\nbifusion: {end}\n")
    written = io.StringIO()
    console = Console(file=written, width=200)
    train.train_runs(planned, jobs=1, console=console, report=lambda: None)
    told = written.getvalue()
    assert told.count("the same") == 1 and told.count("another") == 1
    assert "a, b crashed" in told and "epoch 1" not in told


class Ended:
    def __init__(self, returncode):
        self.returncode = returncode

    def poll(self):
        return self.returncode


@pytest.mark.parametrize(("returncode", "crashed"), [(0, []), (4, []), (1, ["run"]), (-9, ["run"])])
def test_of_the_runs_of_a_comparison(monkeypatch, tmp_path, returncode, crashed):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").touch()
    monkeypatch.setattr(train, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(train, "_start", lambda *args: Ended(returncode))
    planned = [PlannedRun(get_recipe("oneformer3d_small"), tmp_path / "run")]
    console = Console(file=io.StringIO())
    assert train.train_runs(planned, jobs=1, console=console, report=lambda: None) == crashed
