"""Runs that go back to their last healthy state: what is recorded, and resuming anywhere around it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bifusion.config.guard import GuardConfig
from bifusion.diagnosis import diagnose, response
from bifusion.diagnosis.bundle import read_bundle
from bifusion.diagnosis.response import Response
from bifusion.errors import InputError
from bifusion.losses.criterion import Criterion
from bifusion.runs.checkpoint import HEALTHY, TRAINING_STATE, load_healthy_state, load_training_state
from bifusion.runs.trained_model import load_model
from bifusion.step.step import Stepper
from bifusion.storage.files import DiskFullError
from bifusion.training import saving
from bifusion.training.train import train
from equality import same
from tiny_runs import make_tiny_data, tiny_config

TESTS = Path(__file__).resolve().parent.parent
BAD_STEPS = (3, 4, 9)
"""The second in a row is followed by a rollback."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), val=1)


def config_of(data):
    config = tiny_config("oneformer3d_small", data, epochs=6)
    config.trainer.eval_every = 3
    config.trainer.guard = GuardConfig(rollback_after=2, max_rollbacks=1, ramp_steps=4, healthy_every=3)
    return config


def break_steps(monkeypatch, bad_steps):
    """Makes a loss term of the steps with these numbers NaN."""
    compute, terms_of, current = Stepper.compute, Criterion.__call__, []

    def watched(self, inputs, state, **others):
        current[:] = [inputs.step]
        return compute(self, inputs, state, **others)

    def broken(self, *args):
        terms = terms_of(self, *args)
        bad = current[0] in bad_steps
        return {**terms, "mask_dice": terms["mask_dice"] * float("nan")} if bad else terms

    monkeypatch.setattr(Stepper, "compute", watched)
    monkeypatch.setattr(Criterion, "__call__", broken)


def stop_after(monkeypatch, count):
    """SIGTERM once `count` steps were taken or dropped, with all that follows a fault."""
    follow, followed = Response.after, []

    def stopping(self, *args):
        follow(self, *args)
        followed.append(1)
        if len(followed) == count:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Response, "after", stopping)


def stop_in_diagnosis(monkeypatch):
    """SIGTERM while the cause of a fault is looked for."""
    judge = diagnose.judge

    def stopping(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return judge(*args)

    monkeypatch.setattr(diagnose, "judge", stopping)


def no_room_for_a_bundle(monkeypatch):
    def full(path, *args):
        raise DiskFullError(f"{path}: the disk is full")

    monkeypatch.setattr(response, "write_bundle", full)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(value):
    if isinstance(value, dict):
        clocks = ("seconds", "peak_memory_mb", "epoch_seconds")
        return {key: without_times(item) for key, item in value.items() if key not in clocks}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        break_steps(patch, BAD_STEPS)
        assert train(config_of(data), folder).state == "completed"
    return folder


def test_a_rollback_is_recorded_and_counted(whole_run):
    steps = lines(whole_run / "steps.jsonl")
    events = {step["step"]: step["event"] for step in steps if step["event"]}
    assert {step: event["action"] for step, event in events.items()} == {
        3: "skip", 4: "rollback", 9: "skip",
    }  # fmt: skip
    epochs = lines(whole_run / "epochs.jsonl")
    assert [epoch["raw_nonfinite"] for epoch in epochs] == [0, 1, 1, 0, 1, 0]
    assert [epoch["skipped"] for epoch in epochs] == [0, 1, 1, 0, 1, 0]
    assert [epoch["rollbacks"] for epoch in epochs] == [0, 0, 1, 0, 0, 0]
    status = json.loads((whole_run / "status.json").read_text())
    assert (status["raw_nonfinite"], status["skipped"], status["rollbacks"]) == (3, 3, 1)
    assert events[3]["diagnosis"]["loss_term"] == "mask_dice"
    assert events[9]["diagnosis"] is None, "the same fault is not diagnosed again"
    assert [event["bundle"] for event in events.values()] == [
        "bundles/step-00000003.safetensors", None, None,
    ]  # fmt: skip
    assert [path.name for path in (whole_run / "bundles").iterdir()] == ["step-00000003.safetensors"]


def test_rates_ramp_up_after_the_rollback_alone(whole_run, data, tmp_path):
    assert train(config_of(data), tmp_path).state == "completed"
    rates = [
        [step["lr"]["backbone"] for step in lines(run / "steps.jsonl")] for run in (whole_run, tmp_path)
    ]
    factors = [ours / usual for ours, usual in zip(*rates, strict=True)]
    assert factors == pytest.approx([1.0] * 5 + [0.1, 0.325, 0.55, 0.775] + [1.0] * 3)


@pytest.mark.parametrize("stop_at", ["diagnosis", 4, 5, 7, 10])
def test_resuming_around_a_rollback_is_exact(whole_run, data, tmp_path, monkeypatch, stop_at):
    """Before, in, between and after the faults, in the ramp, with a healthy state of its own or none."""
    break_steps(monkeypatch, BAD_STEPS)
    with monkeypatch.context() as patch:
        if stop_at == "diagnosis":
            stop_in_diagnosis(patch)
        else:
            stop_after(patch, stop_at)
        assert train(config_of(data), tmp_path).state == "interrupted"
    goes_on_as(whole_run, config_of(data), tmp_path)


def test_a_disk_without_room_for_a_replay_file_ends_the_run_which_then_goes_on(
    whole_run, data, tmp_path, monkeypatch
):
    break_steps(monkeypatch, BAD_STEPS)
    with monkeypatch.context() as patch:
        no_room_for_a_bundle(patch)
        with pytest.raises(DiskFullError, match="step-00000003"):
            train(config_of(data), tmp_path)
    goes_on_as(whole_run, config_of(data), tmp_path)


@pytest.mark.parametrize("error", [DiskFullError, InputError])
@pytest.mark.parametrize("signalled", [True, False])
def test_a_checkpoint_that_cannot_be_written_leaves_no_run_running(
    data, tmp_path, monkeypatch, error, signalled
):
    """Whether a signal asks for it or an epoch's end; the error is InputError where it is read back."""

    def refused(self, *args, **options):
        raise error("step-1: not this time")

    monkeypatch.setattr(saving.Saving, "save", refused)
    if signalled:
        stop_after(monkeypatch, 1)
    with pytest.raises(error, match="not this time"):
        train(config_of(data), tmp_path)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("interrupted", "step-1: not this time")


def goes_on_as(whole_run, config, run):
    """`run`, resumed, comes to its end and is `whole_run` to the bit."""
    assert train(config, run, resume=True).state == "completed"
    for file in ("steps.jsonl", "epochs.jsonl"):
        assert without_times(lines(run / file)) == without_times(lines(whole_run / file))
    ours, theirs = (load_model(run)[0].state_dict() for run in (run, whole_run))
    assert same(ours, theirs)
    states = [load_training_state(run / "checkpoints" / "last") for run in (run, whole_run)]
    assert same(*(without_times(state) for state in states))


def test_the_healthy_state_is_stored_only_where_the_checkpoint_is_another(data, tmp_path, monkeypatch):
    stop_after(monkeypatch, 3)
    train(config_of(data), tmp_path / "at a copy")
    assert healthy_step(tmp_path / "at a copy") == 3
    assert not (tmp_path / "at a copy" / "checkpoints" / "last" / HEALTHY).exists()
    monkeypatch.undo()
    stop_after(monkeypatch, 5)
    train(config_of(data), tmp_path / "later")
    assert healthy_step(tmp_path / "later") == 4
    kept = load_healthy_state(tmp_path / "later" / "checkpoints" / "last")
    assert kept["step"] == 4 and set(kept) == {"step", "model", "optimizer", "precision"}


def healthy_step(run):
    return load_training_state(run / "checkpoints" / "last")["response"]["healthy"]


def test_checkpoints_share_the_file_of_a_healthy_state(data, tmp_path, monkeypatch):
    """Four steps an epoch, a checkpoint after each, a healthy state at each epoch's end."""
    config = config_of(data)
    config.trainer.batch_size, config.trainer.save_every = 1, 1
    config.trainer.guard.healthy_every = 100
    files, save = [], saving.save_checkpoint

    def note(*args, **kwargs):
        folder = save(*args, **kwargs)
        if (folder / HEALTHY).exists():
            files.append(((folder / HEALTHY).stat().st_ino, healthy_step(tmp_path)))
        return folder

    monkeypatch.setattr(saving, "save_checkpoint", note)
    train(config, tmp_path)
    steps = [step for _, step in files]
    assert steps == [first for first in range(0, 24, 4) for _ in range(3)]
    assert [len({file for file, at in files if at == step}) for step in set(steps)] == [1] * 6
    assert not list((tmp_path / "checkpoints").glob(".*"))


def stopped_between_copies(data, run, monkeypatch):
    """A run saved after five steps and after six; both share the healthy state of the first epoch's end,
    after four."""
    config = config_of(data)
    config.trainer.save_every, config.trainer.batch_size, config.trainer.eval_every = 1, 1, 1
    config.trainer.guard.healthy_every = 100
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        train(config, run)
    return config, [run / "checkpoints" / name for name in ("last", "previous")]


def test_a_damaged_healthy_state_costs_no_more_than_itself(data, tmp_path, monkeypatch, caplog):
    config, (last, previous) = stopped_between_copies(data, tmp_path, monkeypatch)
    assert (last / HEALTHY).samefile(previous / HEALTHY)
    content = bytearray((last / HEALTHY).read_bytes())
    content[1000] ^= 1
    (last / HEALTHY).write_bytes(content)
    shutil.rmtree((tmp_path / "checkpoints" / "best").resolve())  # from which all could be repeated
    assert train(config, tmp_path, resume=True).state == "completed"
    assert "healthy.pt: is not as it was saved" in caplog.text
    assert "its own state, as the healthy one is lost" in caplog.text
    assert [step["step"] for step in lines(tmp_path / "steps.jsonl")] == list(range(24))


def test_checkpoints_of_the_first_version_are_taken_up(data, tmp_path, monkeypatch):
    """They hold the healthy state within the training state."""
    config, (last, _) = stopped_between_copies(data, tmp_path / "new", monkeypatch)
    shutil.copytree(tmp_path / "new", tmp_path / "old", symlinks=True)
    checkpoint = tmp_path / "old" / "checkpoints" / "last"
    state = load_training_state(checkpoint)
    state["response"]["healthy"] = load_healthy_state(checkpoint)
    torch.save(state, checkpoint / TRAINING_STATE)
    (checkpoint / HEALTHY).unlink()
    (checkpoint / "sums.json").unlink()
    break_steps(monkeypatch, (6, 7))  # a rollback
    for name in ("new", "old"):
        assert train(config, tmp_path / name, resume=True).rollbacks == 1
    ours, theirs = (load_model(tmp_path / name)[0].state_dict() for name in ("new", "old"))
    assert same(ours, theirs)


def test_faults_without_end_stop_the_run_after_its_rollbacks(data, tmp_path, monkeypatch):
    break_steps(monkeypatch, range(4, 100))
    status = train(config_of(data), tmp_path)
    assert status.state == "guard_stopped"
    assert (status.steps, status.raw_nonfinite, status.rollbacks) == (8, 4, 1)
    assert all(tensor.isfinite().all() for tensor in load_model(tmp_path)[0].state_dict().values())


def test_two_processes_act_alike_where_one_meets_a_fault(data, tmp_path):
    """Skips, rollback and ramp; what the second process met stands in the first one's records, also
    where the exchange of gradients has handed it on to the first."""
    command = [sys.executable, str(TESTS / "two_processes.py"), str(data), str(tmp_path)]
    with_laboratory = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [*command, "8", "2", "3", "6"], capture_output=True, text=True, timeout=240, env=with_laboratory
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"process{k}.json").read_text()) for k in (0, 1))
    times = {"seconds": 0}
    assert first | {"status": first["status"] | times} == second | {"status": second["status"] | times}
    assert (first["status"]["skipped"], first["status"]["rollbacks"]) == (4, 1)
    steps = lines(tmp_path / "steps.jsonl")
    actions = [step["event"]["action"] for step in steps if step["event"]]
    assert actions == ["skip", "rollback", "skip", "skip"]
    event = steps[2]["event"]
    assert event["where"] == ["loss.mask_dice"] and steps[2]["losses"]["mask_dice"] is None
    assert len(steps[2]["scenes"]) == 2 and event["scenes"] == steps[2]["scenes"][1:]
    assert event["diagnosis"]["loss_term"] == "mask_dice", "by the process that reproduces it"
    assert (tmp_path / event["bundle"]).is_file()
    event = steps[8]["event"]
    assert event["where"][0] == "gradient.backbone" and event["scenes"] == steps[8]["scenes"]
    assert event["diagnosis"]["module"] == "decoder.input_proj"
    assert event["diagnosis"]["scenes"] == steps[8]["scenes"][1:]
    assert [batch.names for batch in read_bundle(tmp_path / event["bundle"]).inputs.batches] == [
        steps[8]["scenes"][1:]
    ], "the step of the process that met it"
