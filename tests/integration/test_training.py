"""Whole runs on tiny rooms: files, resuming bit for bit, stopping, interruption."""

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from bifusion.config.guard import GuardConfig
from bifusion.errors import InputError
from bifusion.inference.evaluate import evaluate_run
from bifusion.runs.trained_model import load_model
from bifusion.step.step import Stepper
from bifusion.training.train import train
from tiny_runs import make_tiny_data, tiny_config

GRADIENT_PATHS = {"tower", "conv1", "head_2d", "head_3d", "backbone", "fusion", "decoder", "total"}
STEP_KEYS = {
    "step", "epoch", "stage", "scenes", "losses", "weights", "total", "lr", "grad_norm",
    "grad_norm_clipped", "ranges", "cosine", "gate", "seen_share", "seconds", "peak_memory_mb",
    "event", "scaler_overflow", "decoder_in", "class_spread", "loss_scale", "update_ratio", "conflicts",
    "disagreeing_views", "alarms", "statistics",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"))


def lines(path):
    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def weights_of(run):
    return load_model(run)[0].state_dict()


def without_times(records):
    """Records without what differs from run to run: clock and memory."""
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "peak_memory_mb")}
        for record in records
    ]


@pytest.fixture(scope="module")
def staged_run(data, tmp_path_factory):
    """A complete staged run of three epochs, one a stage."""
    run = tmp_path_factory.mktemp("runs") / "bifusion_small-seed0"
    status = train(tiny_config("bifusion_small", data), run)
    assert status.state == "completed"
    return run


def test_a_run_leaves_every_file_as_documented(staged_run):
    config = json.loads((staged_run / "config.json").read_text())
    assert config["arm"] == "staged" and config["model_kind"] == "bifusion" and config["views_used"]
    assert config["epochs"] == 3 and config["fusion_type"] == "gate" and config["tower"]
    assert [s["name"] for s in config["stages"]] == ["stability", "alignment", "enhancement"]
    assert config["parameters"]["total"] == sum(
        count for name, count in config["parameters"].items() if name != "total"
    )
    assert len(config["train_scenes"]) == 4 and len(config["val_scenes"]) == 2
    steps = lines(staged_run / "steps.jsonl")
    assert [record["step"] for record in steps] == list(range(6))
    for record in steps:
        assert set(record) == STEP_KEYS
        assert set(record["grad_norm"]) == GRADIENT_PATHS
        assert record["event"] is None and record["total"] > 0
        assert record["grad_norm"]["total"] > 0 and len(record["scenes"]) == 2
    epochs = lines(staged_run / "epochs.jsonl")
    assert [record["stage"] for record in epochs] == ["stability", "alignment", "enhancement"]
    assert all(record["val"]["alignment"]["cosine"] is not None for record in epochs)
    status = json.loads((staged_run / "status.json").read_text())
    assert status["state"] == "completed" and status["epochs_done"] == 3 and status["steps"] == 6
    assert status["finite_epochs_in_a_row"] == 3 and status["raw_nonfinite"] == 0
    assert any((staged_run / "tensorboard").iterdir())


def test_the_monitor_sees_each_stage(staged_run):
    steps = lines(staged_run / "steps.jsonl")
    first, last = steps[0], steps[-1]
    assert first["ranges"] is None and first["grad_norm"]["head_2d"] is None
    assert first["weights"]["mask_bce"] > 0 and first["weights"].get("alignment", 0) == 0
    middle = steps[3]
    assert middle["grad_norm"]["head_2d"] > 0 and middle["grad_norm"]["tower"] is None
    assert last["gate"]["scale"] == 1 and 0 < last["gate"]["gate_mean"] < 1
    assert last["grad_norm"]["tower"] > 0 and last["grad_norm"]["conv1"] > 0
    assert set(last["ranges"]) == {"f2d_in", "f3d_in", "f2d", "f3d", "ratio_in", "ratio_out"}
    assert 0 < last["seen_share"] < 1


def assert_parted(written):
    """The gate's groups and those of the results part the same points, and no point is in none."""
    gate = written["gate"]
    assert gate["mean"] == pytest.approx(written["full"]["fusion_2d_ratio"])
    assert written["flat_gate"]["fusion_2d_ratio"] is None, "it is fixed there"
    assert written["flat_gate"]["miou"] is not None
    assert gate["std"] > 0 and sum(gate["histogram"]) == gate["points"]
    for table in ("views", "distance"):
        assert sum(group["points"] for group in gate[table].values()) == gate["points"]
        parts = written[f"by_{table}"].values()
        assert sum(part["points"] for part in parts) == written["seen"]["points"]
    annotated = [sum(group["points"] for group in gate[t].values()) for t in ("classes", "outcome")]
    assert annotated == [written["seen"]["points"]] * 2


def test_final_evaluation(staged_run, data):
    returned = evaluate_run(staged_run)
    written = json.loads((staged_run / "evaluation.json").read_text())
    assert set(written) == set(returned) == {
        "epoch", "data", "full", "views_withheld", "shuffled_2d", "flat_gate", "seen", "unseen",
        "by_views", "by_distance", "gate", "alignment_by_stage",
    }  # fmt: skip
    assert written["epoch"] == 2 and written["data"] == data.name
    assert 0 <= written["full"]["fusion_2d_ratio"] <= 1 and 0 < written["full"]["seen_share"] < 1
    assert written["full"]["miou"] == lines(staged_run / "epochs.jsonl")[-1]["val"]["miou"]
    assert written["views_withheld"]["fusion_2d_ratio"] is None
    assert set(written["seen"]) == {"points", "miou", "iou", "instances", "mask_coverage"}
    assert_parted(written)
    by_stage = written["alignment_by_stage"]
    assert by_stage["alignment"]["start"] == by_stage["stability"]["end"]
    saved = np.load(sorted((staged_run / "predictions").glob("*.npz"))[0])
    assert len(saved["semantic"]) == len(saved["coord"]) == len(saved["truth_semantic"])


def test_a_run_whose_evaluation_is_cut_short_does_not_count_as_evaluated(staged_run, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    (staged_run / "evaluation.json").unlink(missing_ok=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bifusion.inference.evaluate.write_predictions", killed)
        evaluate_run(staged_run)
    assert not (staged_run / "evaluation.json").exists()


def test_evaluation_on_other_data_leaves_the_runs_own_result(staged_run, tmp_path):
    evaluate_run(staged_run)
    own = (staged_run / "evaluation.json").read_bytes()
    other = make_tiny_data(tmp_path / "elsewhere", train=0, val=1)
    evaluate_run(staged_run, data=other)
    assert (staged_run / "evaluation.json").read_bytes() == own
    told = staged_run / "evaluation-elsewhere.json"
    assert json.loads(told.read_text())["epoch"] == 2
    evaluate_run(staged_run, data=other)
    there = shutil.copytree(other, tmp_path / "copied" / "elsewhere")
    before = told.read_bytes()
    with pytest.raises(InputError, match="holds the figures on .*, whose folder has the same name"):
        evaluate_run(staged_run, data=there)
    assert told.read_bytes() == before


def test_evaluation_on_the_runs_own_data_moved_is_the_runs_own_result(staged_run, data, tmp_path):
    """What is told of a copy by its checksums: its dates are others."""
    moved = shutil.copytree(data, tmp_path / "moved", copy_function=shutil.copy)
    (staged_run / "evaluation.json").unlink(missing_ok=True)
    assert evaluate_run(staged_run, data=moved)["data"] == "moved"
    assert (staged_run / "evaluation.json").is_file()
    assert not (staged_run / "evaluation-moved.json").exists()
    changed = shutil.copytree(data, tmp_path / "changed")
    color = next((changed / "val").glob("*/color.npy"))
    np.save(color, 255 - np.load(color))
    evaluate_run(staged_run, data=changed)
    assert (staged_run / "evaluation-changed.json").is_file()


def test_evaluation_in_another_precision_tells_what_that_costs(staged_run):
    evaluate_run(staged_run)
    own = (staged_run / "evaluation.json").read_bytes()
    narrow = evaluate_run(staged_run, precision="bf16-mixed")
    told = json.loads((staged_run / "evaluation-bf16-mixed.json").read_text())
    assert told["full"]["miou"] == narrow["full"]["miou"]
    assert (
        told["full"] != json.loads(own)["full"] and told["full"].keys() == json.loads(own)["full"].keys()
    )
    assert told["full"]["miou"] == pytest.approx(json.loads(own)["full"]["miou"], abs=0.1)
    assert (staged_run / "evaluation.json").read_bytes() == own
    with pytest.raises(
        InputError, match="precision: is '16-mixed', which on a CPU is for trainings alone"
    ):
        evaluate_run(staged_run, device="cpu", precision="16-mixed")


def test_the_same_seed_gives_the_same_run(staged_run, data, tmp_path):
    train(tiny_config("bifusion_small", data), tmp_path / "again")
    ours, theirs = weights_of(tmp_path / "again"), weights_of(staged_run)
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    records = [without_times(lines(run / "steps.jsonl")) for run in (tmp_path / "again", staged_run)]
    assert records[0] == records[1]


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_an_interrupted_run_resumes_bit_for_bit(staged_run, data, tmp_path, monkeypatch, stop_at):
    """SIGTERM within an epoch (steps 1, 3) and on its last step (2); twice, as a terminal may do."""
    act, taken = Stepper.act, []

    def stop_after_some(self, *args):
        act(self, *args)
        taken.append(1)
        if len(taken) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Stepper, "act", stop_after_some)
    config = tiny_config("bifusion_small", data)
    status = train(config, tmp_path / "run")
    assert status.state == "interrupted" and status.steps == stop_at
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "interrupted"
    status = train(config, tmp_path / "run", resume=True)
    assert status.state == "completed" and status.steps == 6
    ours, theirs = weights_of(tmp_path / "run"), weights_of(staged_run)
    assert [name for name, tensor in ours.items() if not tensor.equal(theirs[name])] == []
    for file in ("steps.jsonl", "epochs.jsonl"):
        assert without_times(lines(tmp_path / "run" / file)) == without_times(lines(staged_run / file))


def test_a_run_in_float16_finds_its_scale_and_resumes_bit_for_bit(data, tmp_path, monkeypatch):
    """On a CPU as on a GPU: the scaler's overflows are counted apart, and its state is kept."""
    config = tiny_config("bifusion_small", data)
    config.trainer.precision = "16-mixed"
    whole = train(config, tmp_path / "whole")
    assert whole.state == "completed" and whole.steps == 6
    steps = lines(tmp_path / "whole" / "steps.jsonl")
    overflows = [step["scaler_overflow"] for step in steps]
    assert overflows[0] and not overflows[-1] and not any(step["event"] for step in steps)
    assert steps[-1]["loss_scale"] == 2.0 ** (16 - sum(overflows))
    act = Stepper.act

    def stop_after_third(self, outcome, inputs, state):
        act(self, outcome, inputs, state)
        if inputs.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Stepper, "act", stop_after_third)
    assert train(config, tmp_path / "halves").state == "interrupted"
    monkeypatch.undo()
    train(config, tmp_path / "halves", resume=True)
    ours, theirs = weights_of(tmp_path / "halves"), weights_of(tmp_path / "whole")
    assert [name for name, tensor in ours.items() if not tensor.equal(theirs[name])] == []


def test_a_killed_run_resumes_from_its_last_epoch(staged_run, data, tmp_path, monkeypatch):
    """No handler runs: what was recorded after the last checkpoint is taken back and repeated."""

    class Killed(BaseException):
        pass

    act, taken = Stepper.act, []

    def die(self, *args):
        taken.append(1)
        if len(taken) == 5:
            raise Killed
        act(self, *args)

    config = tiny_config("bifusion_small", data)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "act", die)
        with pytest.raises(Killed):
            train(config, tmp_path / "run")
    assert train(config, tmp_path / "run", resume=True).state == "completed"
    ours, theirs = weights_of(tmp_path / "run"), weights_of(staged_run)
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    assert without_times(lines(tmp_path / "run" / "steps.jsonl")) == without_times(
        lines(staged_run / "steps.jsonl")
    )


def test_three_bad_steps_stop_the_run_with_a_result(data, tmp_path, monkeypatch):
    from bifusion.losses.criterion import Criterion

    compute, calls = Criterion.__call__, []

    def break_later(self, *args):
        calls.append(1)
        terms = compute(self, *args)
        return terms if len(calls) <= 2 else {**terms, "mask_dice": terms["mask_dice"] * float("nan")}

    monkeypatch.setattr(Criterion, "__call__", break_later)
    config = tiny_config("bifusion_small_naive", data)
    config.trainer.guard = GuardConfig(max_rollbacks=0)
    status = train(config, tmp_path)
    assert status.state == "guard_stopped" and "loss.mask_dice" in status.reason
    assert (status.raw_nonfinite, status.skipped, status.epochs_done) == (3, 3, 2)
    assert status.finite_epochs_in_a_row == 1
    steps = lines(tmp_path / "steps.jsonl")
    event = steps[2]["event"]
    assert (event["kind"], event["phase"], event["where"]) == ("nonfinite", "loss", ["loss.mask_dice"])
    assert event["scenes"] == steps[2]["scenes"]
    assert [step["event"]["action"] for step in steps[2:]] == ["skip", "skip", "stop"]
    summary = dict(line.split(":", 1) for line in status.summary.splitlines())
    assert set(summary) >= {"what", "where", "scenes", "verdict", "try"}
    assert "loss.mask_dice" in summary["where"]
    assert steps[2]["losses"]["mask_dice"] is None and steps[2]["total"] is None
    assert all(torch.isfinite(t).all() for t in weights_of(tmp_path).values())
    monkeypatch.undo()
    assert evaluate_run(tmp_path)["full"]["miou"] is not None
    assert train(config, tmp_path, resume=True).state == "guard_stopped", "a result is left as it is"


@pytest.mark.parametrize("recipe", ["oneformer3d_small", "bifusion_small_plan_a"])
def test_models_without_images_train_and_are_split_by_seen_points(data, tmp_path, recipe):
    config = tiny_config(recipe, data, epochs=1)
    assert train(config, tmp_path).state == "completed"
    evaluation = evaluate_run(tmp_path)
    assert evaluation["views_withheld"] is None and evaluation["full"]["fusion_2d_ratio"] is None
    assert evaluation["seen"]["iou"] != evaluation["unseen"]["iou"]


def test_accumulated_batches_make_one_step(data, tmp_path):
    config = tiny_config("oneformer3d_small", data, epochs=1)
    config.trainer = dataclasses.replace(config.trainer, batch_size=1, accumulate=3)
    assert train(config, tmp_path).steps == 2
    assert [len(r["scenes"]) for r in lines(tmp_path / "steps.jsonl")] == [3, 1]


def test_a_folder_is_never_mixed_up(staged_run, data):
    config = tiny_config("bifusion_small", data)
    with pytest.raises(
        InputError, match=r"holds a run already: resume it \(--resume, in Python resume=True\)"
    ):
        train(config, staged_run)
    config.seed = 7
    with pytest.raises(InputError, match="another configuration:\n  seed: then 0, now 7\n"):
        train(config, staged_run, resume=True)


def test_a_copy_without_its_records_is_no_empty_folder(staged_run, data, tmp_path):
    """Checkpoints would be gone on from, whatever is asked for."""
    shutil.copy(staged_run / "config.json", tmp_path)
    shutil.copytree(staged_run / "checkpoints", tmp_path / "checkpoints", symlinks=True)
    config = tiny_config("bifusion_small", data)
    config.seed = 7
    with pytest.raises(InputError, match="holds a run already"):
        train(config, tmp_path)
    with pytest.raises(InputError, match="another configuration:\n  seed: then 0, now 7\n"):
        train(config, tmp_path, resume=True)


def test_inconsistent_configuration_is_refused(data, tmp_path):
    config = tiny_config("oneformer3d_small", data)
    config.data.use_xyz = False
    with pytest.raises(InputError, match="model.unet.in_channels is 6, but .*data.use_xyz is 3"):
        train(config, tmp_path)
