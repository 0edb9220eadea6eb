"""What the command line says to bad input: file or argument, found, expected, what to do; status 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from bifusion.recipes import RECIPES


def run(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bifusion.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], ["trian", "unknown", "train"]),
        (["info", "bifusion_smal"], ["bifusion_smal", "unknown", "bifusion_small"]),
        (["train", "no_such_recipe"], ["no_such_recipe", "unknown"]),
        (["train"], ["recipe"]),
        (["prepare", "matterport"], ["matterport", "synthetic", "scannet"]),
        (["compare"], ["nothing to compare", "--runs"]),
        (["compare", "bifusion_small"], ["--data"]),
        (["predict", "no/such/run", "no/such/scene"], ["no/such/run"]),
        (["train", "oneformer3d_small", "--data.root", "no/such/data"], ["no/such/data"]),
    ],
)
def test_bad_input_is_named_without_a_traceback(args: list[str], words: list[str]):
    result = run(*args)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_unknown_option_is_refused():
    result = run("info", "bifusion_small", "--colour", "red")
    assert result.returncode == 2 and "colour" in result.stdout + result.stderr


def test_help_lists_all_commands_quickly():
    result = run("--help")
    for command in (
        "demo",
        "prepare",
        "info",
        "train",
        "evaluate",
        "predict",
        "compare",
        "pretrain-tower",
    ):
        assert command in result.stdout
    assert result.returncode == 0


def test_info_prints_the_published_count():
    result = run("info", "oneformer3d_scannet20")
    assert "17,515,048" in result.stdout


def test_recipe_names_are_what_the_issue_names():
    wanted = "oneformer3d_scannet20 oneformer3d_scannet200 bifusion_scannet20 bifusion_scannet200"
    assert set(wanted.split()) <= set(RECIPES)


def test_configuration_of_another_run_is_not_overwritten(tmp_path: Path):
    from bifusion.config.run import save_config
    from bifusion.studies.training_runs.plan import plan_runs
    from bifusion.studies.training_runs.train import train_runs
    from bifusion.types import InputError

    (planned,) = plan_runs(["oneformer3d_small"], [0], tmp_path, tmp_path / "out", epochs=3)
    planned.folder.mkdir(parents=True)
    save_config(planned.config, planned.folder / "run.json")
    (other,) = plan_runs(["oneformer3d_small"], [0], tmp_path, tmp_path / "out", epochs=4)
    with pytest.raises(InputError, match="another configuration"):
        train_runs([other], jobs=1, console=None, report=lambda: None)
