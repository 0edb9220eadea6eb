"""Runs that are interrupted, killed or run out of disk go on as if nothing had happened, to the bit."""

import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from bifusion import cli
from bifusion.config.run import save_config
from bifusion.config.stages import StagePlan
from bifusion.data.dataset import SceneDataset
from bifusion.data.workers import WorkerEndedError
from bifusion.errors import InputError
from bifusion.losses.criterion import Criterion
from bifusion.runs.checkpoint import load_training_state
from bifusion.step.checks import Statistics
from bifusion.step.step import Stepper
from bifusion.storage.files import free_bytes
from bifusion.studies.training_runs import train as studies
from bifusion.studies.training_runs.plan import PlannedRun
from bifusion.training import saving, trainer, validation
from bifusion.training.train import train
from forked_runs import start_command, subprocesses
from load_tool import TOOLS, load_tool
from small_disks import small_disk
from tiny_runs import make_tiny_data, tiny_config


@pytest.fixture(scope="module")
def tool():
    return load_tool("resume_test")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), val=1)


STEPS = 6
"""Of a run, in three epochs."""


def config_of(data, *, workers=0, save_every=0):
    """Three epochs of two steps; validation after each."""
    config = tiny_config("bifusion_small", data)
    config.trainer.workers, config.trainer.save_every = workers, save_every
    return config


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "reference"
    train(config_of(data), run)
    return run


def test_killed_runs_resume_to_the_same_bits():
    """The short form of `make resume-test`."""
    command = [
        sys.executable,
        str(TOOLS / "resume_test.py"),
        "--runs",
        "3",
        "--jobs",
        "1",
        "--seed",
        "3",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3" in done.stdout


def change_weight(run):
    path = run / "checkpoints" / "last" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name, tensor in weights.items() if tensor.dtype == torch.float32)
    weights[name].view(-1)[0] = torch.nextafter(weights[name].view(-1)[0], torch.tensor(1e9))
    save_file(weights, path)


def change_state(run):
    path = run / "checkpoints" / "last" / "training.pt"
    state = torch.load(path, weights_only=True)
    next(iter(state["optimizer"]["state"].values()))["exp_avg"].view(-1)[0] += 1e-6
    torch.save(state, path)


def change_counts(run):
    path = run / "checkpoints" / "last" / "training.pt"
    state = torch.load(path, weights_only=True)
    state["guard"]["counts"]["skipped"] += 1
    torch.save(state, path)


def change_loss(run):
    lines = (run / "steps.jsonl").read_text().splitlines()
    record = json.loads(lines[1])
    record["losses"]["semantic"] *= 1 + 1e-15
    (run / "steps.jsonl").write_text("\n".join([lines[0], json.dumps(record), *lines[2:]]) + "\n")


def lose_epoch(run):
    lines = (run / "epochs.jsonl").read_text().splitlines(keepends=True)
    (run / "epochs.jsonl").write_text("".join(lines[1:]))


@pytest.mark.parametrize("change", [change_weight, change_state, change_counts, change_loss, lose_epoch])
def test_the_comparison_sees_the_smallest_difference(tool, reference, tmp_path, change):
    run = shutil.copytree(reference, tmp_path / "run", symlinks=True)
    assert list(tool.differences(run, reference)) == []
    change(run)
    assert list(tool.differences(run, reference))


SIGNAL_AT = {
    "loading": (SceneDataset, "sample", 3),
    "remembering buffers": (Statistics, "remember", 3),
    "forward": (Criterion, "__call__", 3),
    "weights change": (Stepper, "act", 3),
    "validation": (validation.CountedShare, "add", 3),
    "saving": (saving, "save_checkpoint", 2),
}


@pytest.mark.parametrize("place", SIGNAL_AT)
def test_a_signal_at_any_point_saves_and_leaves(tool, reference, data, tmp_path, monkeypatch, place):
    """Twice, as an impatient user sends it; the second one must not break the save."""
    owner, name, nth = SIGNAL_AT[place]
    work, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGTERM)
        result = work(*args, **kwargs)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        status = train(config_of(data), tmp_path / "run")
    assert status.state == "interrupted" and "SIGTERM" in status.reason
    assert len(calls) == nth, "nothing more was begun"
    saved = load_training_state(tmp_path / "run" / "checkpoints" / "last")
    assert saved["progress"]["step"] == status.steps > 0
    assert train(config_of(data), tmp_path / "run", resume=True).state == "completed"
    assert list(tool.differences(tmp_path / "run", reference)) == []


def test_checkpoints_within_an_epoch(tool, reference, data, tmp_path, monkeypatch):
    """A run killed on the last step of an epoch loses that step alone."""
    killed_after(monkeypatch, 3, config_of(data, save_every=1), tmp_path / "run")
    assert load_training_state(tmp_path / "run" / "checkpoints" / "last")["progress"]["step"] == 3
    train(config_of(data, save_every=1), tmp_path / "run", resume=True)
    assert list(tool.differences(tmp_path / "run", reference)) == []


class Killed(BaseException):
    """A process that is killed tidies nothing up."""


def killed_after(monkeypatch, steps, config, run):
    """Trains until `steps` steps have reached the weights."""
    act, taken = Stepper.act, []

    def die(self, *args):
        taken.append(1)
        if len(taken) > steps:
            raise Killed
        act(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "act", die)
        with pytest.raises(Killed):
            train(config, run)


def seldom_saved(data):
    config = config_of(data)
    config.trainer.save_epochs = config.trainer.eval_every = 3
    config.stages = StagePlan(config.stages.stages[:1])  # each stage's end is validated and saved
    return config


@pytest.fixture(scope="module")
def seldom_saved_run(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(seldom_saved(data), run)
    return run


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    tool, seldom_saved_run, data, tmp_path, monkeypatch, caplog, steps
):
    """Within the first, second and third of three epochs, of which the last alone is saved."""
    run = tmp_path / "run"
    killed_after(monkeypatch, steps, seldom_saved(data), run)
    assert len(read(run / "steps.jsonl")) == steps and not list((run / "checkpoints").glob("[!.]*"))
    with caplog.at_level(logging.WARNING):
        assert train(seldom_saved(data), run, resume=True).state == "completed"
    epochs = (steps + 1) // 2
    assert f"starts again from the beginning, its {steps} steps (of {epochs} epochs)" in caplog.text
    assert [json.loads(line)["step"] for line in read(run / "steps.jsonl")] == list(range(STEPS))
    assert [json.loads(line)["epoch"] for line in read(run / "epochs.jsonl")] == list(range(3))
    assert list(tool.differences(run, seldom_saved_run)) == []


def test_a_repeated_comparison_starts_such_a_run_again(data, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "subprocess", subprocesses)
    run = PlannedRun(seldom_saved(data), tmp_path / "run")
    killed_after(monkeypatch, 5, run.config, run.folder)
    crashed = studies.train_runs([run], jobs=2, console=Console(quiet=True), report=lambda: None)
    assert crashed == [] and run.finished
    assert "starts again from the beginning" in (run.folder / "log.txt").read_text()


def test_checkpoints_that_are_gone_are_missed(data, tmp_path, monkeypatch):
    """What was saved and is gone is no run that was never saved: it may be on another disk."""
    config = seldom_saved(data)
    config.trainer.save_every = 1
    killed_after(monkeypatch, 3, config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(InputError, match="checkpoints is empty, though the run was saved"):
        train(config, tmp_path / "run", resume=True)


def ctrl_c_twice(pid):
    for _ in range(2):
        os.killpg(pid, signal.SIGINT)
        time.sleep(0.05)


def start_fresh(arguments, log):
    """The command in a new interpreter, as users start it."""
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "bifusion.cli", *map(str, arguments)],
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


STOPS = {
    "SIGTERM to one": (start_command, lambda pid: os.kill(pid, signal.SIGTERM), 143),
    "Ctrl-C, which a terminal sends to all": (start_fresh, ctrl_c_twice, 130),
    "SIGTERM to all, as a scheduler sends it": (
        start_command,
        lambda pid: os.killpg(pid, signal.SIGTERM),
        143,
    ),
}


@pytest.mark.parametrize("way", STOPS)
def test_terminal_and_job_scheduler_are_heeded_at_once(tool, reference, data, tmp_path, way):
    """A whole process with data workers; no step is begun after the one that is on its way."""
    start, stop, status = STOPS[way]
    save_config(config_of(data, workers=2), tmp_path / "run.json")
    run, log = tmp_path / "run", tmp_path / "log.txt"
    process = start(["train", tmp_path / "run.json", "--out", run], log)
    while not (run / "steps.jsonl").exists() or not read(run / "steps.jsonl"):
        assert process.poll() is None, log.read_text()
        time.sleep(0.002)
    stop(process.pid)
    assert process.wait(timeout=300) == status, log.read_text()
    assert len(read(run / "steps.jsonl")) < STEPS
    assert "Traceback" not in log.read_text()
    train(config_of(data, workers=2), run, resume=True)
    assert list(tool.differences(run, reference)) == []


def read(path):
    return path.read_text().splitlines()


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", megabytes=6) as disk:
        yield disk


@pytest.mark.parametrize("left", [100_000, 0])
def test_a_full_disk_ends_the_run_which_then_goes_on(
    tool, reference, data, tmp_path, disk, monkeypatch, capsys, left
):
    """With room for records but not for a checkpoint, and with none at all."""
    run, filler = disk / "run", disk / "filler"

    validate = trainer.Trainer._validate

    def fill(self):
        if self.progress.epoch == 1:
            filler.write_bytes(bytes(free_bytes(disk) - left))
        return validate(self)

    save_config(config_of(data), tmp_path / "run.json")
    command = ["bifusion", "train", str(tmp_path / "run.json"), "--out", str(run), "--resume"]
    monkeypatch.setattr(sys, "argv", command)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_validate", fill)
        with pytest.raises(SystemExit) as left_with:
            cli.main()
    said = capsys.readouterr().err
    assert left_with.value.code == 2 and "Traceback" not in said
    assert "the disk is full" in said and str(run) in said and "are free" in said and "--resume" in said
    assert load_training_state(run / "checkpoints" / "last")["progress"]["step"] == 2
    assert json.loads((run / "status.json").read_text())["state"] in ("interrupted", "running")
    filler.unlink()
    train(config_of(data), run, resume=True)
    assert list(tool.differences(run, reference)) == []


def test_what_on_epoch_raises_ends_a_run_that_goes_on(tool, reference, data, tmp_path):
    class PrunedError(Exception):
        pass

    def prune(record):
        saved.append((record, (run / "checkpoints" / "last").resolve().name))
        if record["epoch"] == 1:
            raise PrunedError

    run, saved = tmp_path / "run", []
    with pytest.raises(PrunedError):
        train(config_of(data), run, on_epoch=prune)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("interrupted", "on_epoch raised an error")
    steps_of_one = len(read(run / "steps.jsonl")) // 2
    assert [name for _, name in saved] == [f"step-{steps_of_one * k:08d}" for k in (1, 2)]
    assert [record for record, _ in saved] == [json.loads(line) for line in read(run / "epochs.jsonl")]
    assert train(config_of(data), run, resume=True).state == "completed"
    assert list(tool.differences(run, reference)) == []


def test_a_damaged_last_checkpoint_costs_what_came_after_the_one_before(
    tool, reference, data, tmp_path, caplog
):
    run = tmp_path / "run"

    def stop_after_two_epochs(record):
        if record["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    train(config_of(data), run, on_epoch=stop_after_two_epochs)
    weights = (run / "checkpoints" / "last" / "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[5000] ^= 4
    weights.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert train(config_of(data), run, resume=True).state == "completed"
    assert f"DAMAGED CHECKPOINT {weights}" in caplog.text
    assert "step-00000002, saved after 1 epochs" in caplog.text
    assert list(tool.differences(run, reference)) == []


def test_a_run_without_an_intact_checkpoint_is_refused(reference, data, tmp_path):
    run = shutil.copytree(reference, tmp_path / "run", symlinks=True)
    (run / "status.json").unlink()
    for folder in run.glob("checkpoints/step-*"):
        (folder / "training.pt").write_bytes(b"")
    with pytest.raises(InputError, match="no checkpoint can be resumed"):
        train(config_of(data), run, resume=True)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="checkpoints is empty, though the run was saved"):
        train(config_of(data), run, resume=True)


def test_a_killed_data_worker_ends_the_run_which_then_goes_on(tool, reference, data, tmp_path):
    run = tmp_path / "run"

    def kill_a_worker(record):
        if record["epoch"] == 0:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(WorkerEndedError, match=r"data worker \d of 2 .* was killed by SIGKILL"):
        train(config_of(data, workers=2), run, on_epoch=kill_a_worker)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "interrupted" and "data worker" in status["reason"]
    train(config_of(data, workers=2), run, resume=True)
    assert list(tool.differences(run, reference)) == []


def test_bad_data_in_the_middle_saves_what_was_done(tool, reference, data, tmp_path, monkeypatch):
    """The scene can be repaired and the run goes on with the step that it ended before."""
    sample, calls = SceneDataset.sample, []

    def break_later(self, *args):
        calls.append(1)
        if self.training and len(calls) > 3:
            raise InputError("room: broken")
        return sample(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SceneDataset, "sample", break_later)
        with pytest.raises(InputError, match="room: broken"):
            train(config_of(data), tmp_path / "run")
    assert load_training_state(tmp_path / "run" / "checkpoints" / "last")["progress"]["step"] == 1
    train(config_of(data), tmp_path / "run", resume=True)
    assert list(tool.differences(tmp_path / "run", reference)) == []
