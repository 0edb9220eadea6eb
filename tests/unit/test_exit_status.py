"""Exit statuses tell a result, a run that its guard stopped, from a crash."""

import io
import json
import math

import pytest
from rich.console import Console

import bifusion.inference.train_and_evaluate
from bifusion.commands import train as command
from bifusion.commands.runs import evaluate
from bifusion.recipes import get_recipe
from bifusion.runs.run_folder import RunStatus
from bifusion.storage.json_files import write_json
from bifusion.studies.training_runs import train
from bifusion.studies.training_runs.plan import PlannedRun


@pytest.mark.parametrize(
    ("state", "reason", "status", "evaluated"),
    [
        ("completed", None, 0, 1),
        ("guard_stopped", "it went on", 4, 1),
        ("interrupted", "received SIGINT", 130, 0),
        ("interrupted", "received SIGTERM", 143, 0),
        ("interrupted", "received SIGUSR1", 130, 0),
    ],
)
def test_of_a_run(monkeypatch, tmp_path, state, reason, status, evaluated):
    evaluations = []
    module = bifusion.inference.train_and_evaluate
    monkeypatch.setattr(module, "train", lambda *args, **kw: RunStatus(state, reason=reason))
    monkeypatch.setattr(module, "evaluate_run", lambda folder, **kw: evaluations.append(folder))
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
    monkeypatch.setattr(module, "evaluate_run", lambda folder, **kw: None)
    arguments = ["oneformer3d_small", "--out", str(tmp_path), "--resume"]
    monkeypatch.setattr(module, "train", lambda *args, **kw: ended)
    command.train(arguments)
    assert "already" not in capsys.readouterr().out  # it ended just now
    write_json(tmp_path / "status.json", ended)
    command.train(arguments)
    said = capsys.readouterr().out
    assert f"{tmp_path}: {told}{tmp_path / 'evaluation.json'}" in said and said.count("\n") == 1
    assert (f"for a longer run that starts from its 3D network: --init {tmp_path}" in said) == (
        state == "completed"
    )
    assert "--trainer.epochs" not in said  # refused, as the rates are laid out over the whole run
    command.train([*arguments, "--optim.schedule", "constant"])
    assert ("--trainer.epochs for more" in capsys.readouterr().out) == (state == "completed")


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
        self.returncode, self.polled = returncode, False

    def poll(self):
        self.polled = True
        return self.returncode


def test_a_run_that_ended_badly_after_its_evaluation_is_a_result(monkeypatch, tmp_path):
    """As where a device fails as it is given back."""
    (tmp_path / "run").mkdir()
    run, ended = PlannedRun(get_recipe("oneformer3d_small"), tmp_path / "run"), Ended(-11)
    monkeypatch.setattr(train, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(train, "_start", lambda *args: ended)
    monkeypatch.setattr(PlannedRun, "finished", property(lambda self: ended.polled))
    assert train.train_runs([run], jobs=1, console=Console(quiet=True), report=lambda: None) == []


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [(None, ["0", "1", "0"]), ("4,5", ["4", "5", "4"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b", "GPU-a"])],
)
def test_runs_side_by_side_share_out_the_gpus_that_a_scheduler_gave(monkeypatch, visible, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(train.torch.cuda, "device_count", lambda: 2)
    assert [train._own_gpu(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == gpus
    monkeypatch.setattr(train.torch.cuda, "device_count", lambda: 1)
    assert train._own_gpu(0) == {}


@pytest.mark.parametrize(("returncode", "crashed"), [(0, []), (4, []), (1, ["run"]), (-9, ["run"])])
def test_of_the_runs_of_a_comparison(monkeypatch, tmp_path, returncode, crashed):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").touch()
    monkeypatch.setattr(train, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(train, "_start", lambda *args: Ended(returncode))
    planned = [PlannedRun(get_recipe("oneformer3d_small"), tmp_path / "run")]
    console = Console(file=io.StringIO())
    assert train.train_runs(planned, jobs=1, console=console, report=lambda: None) == crashed


def test_figures_that_were_not_measured_are_printed_as_null(monkeypatch, tmp_path, capsys):
    found = {"full": {"miou": 0.5, "iou": {"bed": math.nan}}}
    monkeypatch.setattr("bifusion.inference.evaluate.evaluate_run", lambda *args, **kw: found)
    assert evaluate([str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"miou": 0.5, "iou": {"bed": None}}
