"""What the command line says to bad input: file or argument, found, expected, what to do; status 2."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bifusion.cli import COMMANDS, main
from bifusion.config.run import save_config
from bifusion.errors import InputError
from bifusion.recipes import RECIPES, get_recipe
from bifusion.studies.training_runs.plan import plan_runs
from bifusion.studies.training_runs.train import train_runs
from tiny_runs import make_tiny_data


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], ["trian", "unknown", "did you mean 'train'"]),
        (["info", "bifusion_smal"], ["bifusion_smal", "unknown", "bifusion_small"]),
        (["train", "no_such_recipe"], ["no_such_recipe", "unknown"]),
        (["train"], ["recipe", "bifusion train --help"]),
        (["prepare"], ["prepare what?", "superpoints", "bifusion prepare --help"]),
        (["prepare", "matterport"], ["matterport", "synthetic", "scannet"]),
        (["prepare", "sythetic"], ["did you mean 'synthetic'"]),
        (["compare"], ["nothing to compare", "--runs"]),
        (["compare", "bifusion_small"], ["--data"]),
        (["predict", "no/such/run", "no/such/scene"], ["no/such/run"]),
        (["train", "oneformer3d_small", "--data.root", "no/such/data"], ["no/such/data"]),
        (["info", "bifusion_small", "--colour", "red"], ["--colour is unknown"]),
        (["info", "bifusion_small", "mask3d_small"], ["'mask3d_small', one argument too many"]),
        (["evaluate", "run", "--dta", "x"], ["--dta is unknown (did you mean '--data'?)"]),
        (["train", "mask3d_tiny", "--epochs", "3"], ["did you mean '--trainer.epochs'"]),
        (["train", "mask3d_tiny", "--trainer.epoch", "3"], ["did you mean '--trainer.epochs'"]),
        (
            ["train", "mask3d_tiny", "--trainer.precision=bf16"],
            ["found 'bf16'", "did you mean 'bf16-mixed'"],
        ),
        (["train", "mask3d_tiny", "--data.label-set", "scanet20"], ["did you mean 'scannet20'"]),
        (["dose", "--values", "1", "--knob", "depth_nois"], ["did you mean 'depth_noise'"]),
        (["train", "mask3d_tiny", "--trainer.epochs", "4.5"], ["'4.5', expected a whole number"]),
        (["train", "mask3d_tiny", "--optim.lr=fast"], ["--optim.lr: found 'fast', expected a number"]),
        (["train", "mask3d_tiny", "--trainer.epochs"], ["found nothing, expected a whole number"]),
        (["demo", "--seeds", "0,1", "--jobs", "1"], ["'0,1'", "blanks between them: --seeds 0 1"]),
        (["demo", "--seeds", "0", "1.5"], ["--seeds: found '1.5', expected a whole number"]),
        (["compare", "x", "--seeds=a", "--data", "y"], ["--seeds: found 'a', expected a whole"]),
        (["prepare", "synthetic", "--ot", "x"], ["--ot is unknown (did you mean '--out'?)"]),
        (["prepare", "synthetic"], ["--out"]),
        (["labels", "nyu"], ["'nyu' is unknown", "nyu40"]),
    ],
)
def test_bad_input_is_named_without_a_traceback(bifusion, args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = bifusion(*args)
    assert called.status == 2, called.err
    assert "Traceback" not in called.err and called.out == ""
    for word in words:
        assert word in called.err


def test_a_value_may_begin_with_a_dash(bifusion):
    for up in ("-z", "-0.1,0,1"):
        called = bifusion("scan", "no/such.ply", "--run", "no/such/run", "--out", "out", "--up", up)
        assert called.status == 2 and "Missing value" not in called.err and "no/such" in called.err
    called = bifusion("scan", "no/such.ply", "--run", "no/such/run", "--up", "--out", "out")
    assert called.status == 2 and "--up" in called.err


@pytest.mark.parametrize(("command", "goes_on"), [("train", False), ("check", False), ("dose", True)])
def test_only_what_goes_on_by_itself_says_so(command, goes_on, bifusion, monkeypatch):
    def interrupted(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, command, interrupted)
    called = bifusion(command)
    assert called.status == 130 and called.err.startswith("bifusion: interrupted")
    assert ("the same command goes on" in called.err) == goes_on


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_command_on_many_inputs_says_that_those_done_are_kept(
    bifusion, monkeypatch, tmp_path, overwrite
):
    def interrupted(*args, **options) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    scene = tmp_path / "val" / "hall"
    scene.mkdir(parents=True)
    (scene / "coord.npy").touch()
    again = ["--overwrite"] if overwrite else []
    for module, name, command in [
        ("inference.predict_data", "predict_scenes", ["predict", "run", tmp_path / "val", *again]),
        ("datasets.scan.prepare", "prepare_scans", ["prepare", "scan", "a.ply", "--out", "o", *again]),
        ("datasets.scannet.prepare", "prepare_scannet",
         ["prepare", "scannet", "--scans", "s", "--labels", "l", "--out", "o", *again]),
        ("datasets.superpoints.prepare_superpoints", "prepare_superpoints",
         ["prepare", "superpoints", tmp_path, *again]),
        ("datasets.rooms", "make_rooms", ["prepare", "synthetic", "--out", "o"]),
        ("training.view_features", "keep_features",
         ["prepare", "features", "bifusion_tiny", "--data", tmp_path]),
    ]:  # fmt: skip
        monkeypatch.setattr(f"bifusion.{module}.{name}", interrupted)
        called = bifusion(*command)
        kind = "command without --overwrite" if "--overwrite" in command else "command"
        goes_on = f"what is done is kept, the same {kind} goes on where it was"
        assert (called.status, called.err) == (143, f"bifusion: interrupted; {goes_on}\n")


def test_no_configuration_is_printed_that_no_run_could_have(bifusion):
    called = bifusion("train", "bifusion_tiny", "--trainer.epochs", "2", "--print-config")
    assert called.status == 2 and "the plan has 3 stages" in called.err and called.out == ""


def test_the_status_is_that_of_the_process():
    command = [sys.executable, "-m", "bifusion.cli", "trian"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "train" in done.stderr


def test_info_prints_the_published_count(bifusion):
    assert "17,515,048" in bifusion("info", "oneformer3d_scannet20").out


@pytest.mark.parametrize(
    "command",
    [
        ("demo",),
        ("compare", "bifusion_tiny", "--data"),
        ("compare", "--sweep", "lr", "--base", "bifusion_tiny", "--data"),
        ("dose", "--knob", "cover", "--values", "1", "--recipes", "bifusion_tiny"),
    ],
)
def test_several_models_are_not_trained_into_the_folder_of_one(bifusion, tmp_path, command):
    save_config(get_recipe("bifusion_tiny"), tmp_path / "config.json")
    (tmp_path / "status.json").write_text('{"state": "completed"}')
    data = [make_tiny_data(tmp_path / "data")] if command[-1] == "--data" else []
    called = bifusion(*command, *data, "--out", tmp_path)
    assert called.status == 2 and f"{tmp_path}: is a run's folder" in called.err


def test_a_printed_configuration_is_what_a_run_would_store_and_can_be_given_back(bifusion, tmp_path):
    options = ["--trainer.epochs", "7", "--data.root", tmp_path, "--init", "x.pt"]
    printed = bifusion("train", "bifusion_tiny", *options, "--print-config")
    assert printed.status == 0 and not any(tmp_path.iterdir())
    config = json.loads(printed.out)
    assert config["trainer"]["epochs"] == 7 and config["trainer"]["init"] == "x.pt"
    assert config["data"]["labels"]["name"] == "scannet20", "the classes of the data, as a run has them"
    (tmp_path / "mine.json").write_text(printed.out)
    assert bifusion("train", tmp_path / "mine.json", "--print-config").out == printed.out


def test_recipe_names_are_what_the_issue_names():
    wanted = "oneformer3d_scannet20 oneformer3d_scannet200 bifusion_scannet20 bifusion_scannet200"
    assert set(wanted.split()) <= set(RECIPES)


def test_configuration_of_another_run_is_not_overwritten(tmp_path: Path):
    (planned,) = plan_runs(["oneformer3d_small"], [0], tmp_path, tmp_path / "out", epochs=3)
    planned.folder.mkdir(parents=True)
    save_config(planned.config, planned.folder / "run.json")
    (other,) = plan_runs(["oneformer3d_small"], [0], tmp_path, tmp_path / "out", epochs=4)
    with pytest.raises(InputError, match="another configuration:\n  trainer.epochs: then 3, now 4"):
        train_runs([other], jobs=1, console=Console(quiet=True), report=lambda: None)


UNREAD = "from bifusion.untrusted.screen import Screen; Screen().print('a line')"


@pytest.mark.parametrize(
    "program",
    [
        ["-m", "bifusion", "labels"],
        ["-m", "bifusion", "demo", "--help-all"],
        ["-m", "bifusion", "--version"],
        ["-u", "-m", "bifusion", "labels", "s3dis"],
        ["-c", UNREAD],
    ],
    ids=" ".join,
)
def test_output_that_nobody_reads_on_ends_a_command_in_silence(program: list[str], monkeypatch):
    """As `bifusion labels | head -1` has it: with the status of a program that SIGPIPE ends."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, *program], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_was_closed_from_the_start_ends_nothing():
    """As `bifusion labels >&-` has it: Python has no stream then."""
    command = shlex.join([sys.executable, "-m", "bifusion", "--version"])
    done = subprocess.run(f"{command} >&-", shell=True, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_pipe_that_breaks_is_no_end_of_reading(monkeypatch):
    def broken(args: list[str]) -> int:
        raise BrokenPipeError("of a worker")

    monkeypatch.setitem(COMMANDS, "check", broken)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        main(["check"])


def test_who_names_a_run_in_place_of_a_recipe_is_told_how_it_goes_on(bifusion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_config(get_recipe("mask3d_tiny"), tmp_path / "runs/first/config.json")
    called = bifusion("train", "runs/first", "--resume")
    assert called.status == 2 and called.err.count("\n") == 1
    told = "bifusion train runs/first/config.json --out runs/first --resume"
    assert (
        f"is a run's folder, expected a recipe or a configuration: `{told}` goes on with it"
        in called.err
    )
    shown = bifusion(*shlex.split(told)[1:], "--print-config")
    assert json.loads(shown.out)["recipe"] == "mask3d_tiny"
