"""Reading run folders: unfinished ones read as far as they got, damaged ones name file and line."""

import json

import pytest

from bifusion.errors import InputError
from bifusion.recipes import get_recipe
from bifusion.studies.figures.arms import group_runs
from bifusion.studies.figures.run import load_run
from bifusion.studies.training_runs.plan import PlannedRun
from run_factory import FakeRun


def test_reads_a_finished_run(tmp_path):
    run = load_run(FakeRun(arm="staged", seed=3, epochs=6, steps_per_epoch=2).write(tmp_path))
    assert (run.arm, run.seed, run.state, run.epochs_done) == ("staged", 3, "completed", 6)
    assert [stage.name for stage in run.stages] == ["stability", "alignment", "enhancement"]
    assert len(run.steps) == 12
    assert run.evaluation is not None


@pytest.mark.parametrize("epochs_before", [0, 4])
def test_an_evaluation_of_before_a_run_went_on_is_none(tmp_path, epochs_before):
    """Trained to its end, evaluated, gone on with to more epochs, killed as it was evaluated again."""
    folder = FakeRun(epochs=6).write(tmp_path)
    path = folder / "evaluation.json"
    evaluation = json.loads(path.read_text())
    path.write_text(json.dumps(evaluation | {"epoch": evaluation["epoch"] - epochs_before}))
    planned = PlannedRun(get_recipe("oneformer3d_small"), folder)
    planned.config.trainer.epochs = 6
    assert (load_run(folder).evaluation is None) == (epochs_before > 0)
    assert planned.finished == (epochs_before == 0)


def test_a_run_that_has_just_begun_reads_empty(tmp_path):
    folder = FakeRun(epochs=4).write(tmp_path)
    for name in ("steps.jsonl", "epochs.jsonl", "status.json", "evaluation.json"):
        (folder / name).unlink()
    run = load_run(folder)
    assert (run.state, run.steps, run.epoch_records, run.evaluation) == ("running", [], [], None)


def test_a_line_being_written_is_left_out(tmp_path):
    folder = FakeRun(epochs=4, state="running").write(tmp_path)
    steps = folder / "steps.jsonl"
    whole = len(load_run(folder).steps)
    steps.write_text(steps.read_text() + '{"step": 99, "ep')
    assert len(load_run(folder).steps) == whole


def test_a_finished_run_may_not_end_within_a_line(tmp_path):
    folder = FakeRun(epochs=4).write(tmp_path)
    steps = folder / "steps.jsonl"
    lines = steps.read_text().count("\n")
    steps.write_text(steps.read_text() + '{"step": 99, "ep')
    with pytest.raises(InputError, match=rf"steps\.jsonl, line {lines + 1}: not valid JSON"):
        load_run(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"line 2: not valid JSON"),
        ("[1, 2]", r"line 2: expected a JSON object, found list"),
        ('{"step": 1}', r"line 2: the key 'epoch' is missing"),
        ('{"step": "1", "epoch": 0, "losses": {}, "grad_norm": {}}', r"line 2: 'step' is of type str"),
        ('{"step": 1, "epoch": 0, "losses": {"x": NaN}, "grad_norm": {}}', r"line 2: .*null stands for"),
        ('{"step": 1, "epoch": 0, "losses": {"x": "a"}, "grad_norm": {}}', r"line 2: losses\.x is 'a'"),
    ],
)
def test_a_damaged_line_names_file_and_line(tmp_path, line, message):
    folder = FakeRun(epochs=4, state="running").write(tmp_path)
    steps = folder / "steps.jsonl"
    lines = steps.read_text().splitlines()
    steps.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(InputError, match=message) as error:
        load_run(folder)
    assert str(steps) in str(error.value)


@pytest.mark.parametrize("key", ["parameters", "train_scenes", "val_scenes", "class_names"])
def test_a_null_where_none_is_written_is_refused(tmp_path, key):
    """A count or a name that is null would break a figure far from the file that holds it."""
    path = FakeRun().write(tmp_path) / "config.json"
    config = json.loads(path.read_text())
    first = next(iter(config[key])) if isinstance(config[key], dict) else 0
    config[key][first] = None
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json: '{key}'.*found None.*copy the file again"):
        load_run(path.parent)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"tower": 0.5}, "'tower'.*found 0.5"),
        ({"unet": {"planes": 32}}, "'planes'.*found 32"),
        ({"fusion": {"dim": "256"}}, "'dim'.*found '256'"),
    ],
)
def test_a_configuration_of_another_shape_is_refused(tmp_path, model, named):
    path = FakeRun().write(tmp_path) / "config.json"
    config = json.loads(path.read_text())
    config["config"] = {"model": model}
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json: 'config': 'model': .*{named}"):
        load_run(path.parent)


def test_ranges_that_are_no_numbers_are_refused(tmp_path):
    path = FakeRun().write(tmp_path) / "steps.jsonl"
    step = json.loads(path.read_text().splitlines()[0]) | {"ranges": {"f2d": {"rms": {"rms": 1.0}}}}
    path.write_text(json.dumps(step))
    with pytest.raises(InputError, match=r"steps\.jsonl: 'ranges': 'f2d': 'rms': found"):
        load_run(path.parent)


def test_what_is_no_run_folder_says_so(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        load_run(tmp_path)


def test_unknown_state_is_refused(tmp_path):
    folder = FakeRun(epochs=4).write(tmp_path)
    (folder / "status.json").write_text(json.dumps({"state": "asleep"}))
    with pytest.raises(InputError, match="'asleep', expected one of completed"):
        load_run(folder)


def test_runs_are_grouped_by_arm_in_the_order_of_tables(tmp_path):
    wanted = [("staged", 1), ("baseline", 0), ("staged", 0), ("naive", 0)]
    runs = [load_run(FakeRun(arm=arm, seed=seed, epochs=4).write(tmp_path)) for arm, seed in wanted]
    arms = group_runs(runs)
    assert [arm.key for arm in arms] == ["baseline", "naive", "staged"]
    assert [run.seed for run in arms[-1].runs] == [0, 1]


def test_the_same_arm_and_seed_twice_is_refused(tmp_path):
    runs = [load_run(FakeRun(epochs=4).write(tmp_path / name)) for name in ("a", "b")]
    with pytest.raises(InputError, match="both staged with seed 0"):
        group_runs(runs)


def test_two_configurations_of_one_role_are_two_arms(tmp_path):
    folders = [FakeRun(epochs=4).write(tmp_path / name) for name in ("a", "b")]
    config = json.loads((folders[1] / "config.json").read_text())
    (folders[1] / "config.json").write_text(json.dumps(config | {"name": "staged_wide"}))
    arms = group_runs([load_run(folder) for folder in folders])
    assert [arm.key for arm in arms] == ["staged:staged_small", "staged:staged_wide"]
