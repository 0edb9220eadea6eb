"""A run made of a user's own package: recipe, loss term, image tower, 3D network, gate and scenes, from
training to prediction; and what becomes of its folder in the hands of somebody who has not named that
package."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from bifusion import cli, plugins
from bifusion.errors import InputError
from bifusion.inference.segmenter import Segmenter
from bifusion.models.build import build_model
from bifusion.models.towers.outside import OutsideTowerConfig
from bifusion.recipes import get_recipe
from bifusion.runs.checkpoint import load_training_state
from bifusion.runs.trained_model import load_model
from bifusion.training.train import train
from outside_rooms import make_own_rooms
from scene_factory import make_tiny_scene
from tiny_runs import make_tiny_data

TESTS = Path(__file__).resolve().parents[1]
RECIPE = "my_rooms.recipes:small"


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugins.VARIABLE, "")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Path:
    return make_own_rooms(tmp_path_factory.mktemp("own"), train=4, val=1)


@pytest.fixture(scope="module")
def run(rooms, tmp_path_factory) -> Path:
    """Trained and evaluated by the command line, the package named with the recipe alone."""
    out = tmp_path_factory.mktemp("runs") / "own"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(plugins.VARIABLE, "")
        assert cli.COMMANDS["train"]([RECIPE, "--data.root", str(rooms), "--out", str(out)]) == 0
    return out


def _steps(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def test_what_came_from_outside_took_part(run):
    steps = _steps(run)
    assert all(0 < step["losses"]["confident"] <= 0.25 for step in steps)
    assert all(step["weights"]["confident"] == 0.2 for step in steps)
    assert steps[-1]["grad_norm"]["tower"] > 0 and steps[-1]["seen_share"] > 0
    assert steps[-1]["grad_norm"]["backbone"] > 0 and steps[-1]["gate"]["learned"]
    described = json.loads((run / "config.json").read_text())
    assert described["tower"] == "stripes, from scratch"
    assert described["sources"] == ["my_rooms.data:scenes"]
    assert described["train_scenes"] == [f"roomtrain{i}" for i in range(4)]
    assert json.loads((run / "evaluation.json").read_text())["full"]["miou"] is not None
    assert (run / "predictions" / "roomval0.npz").exists()


def test_a_stranger_s_run_imports_nothing(run, rooms, tmp_path):
    for command in (["predict", str(run), str(rooms / "val" / "roomval0")], ["evaluate", str(run)]):
        with pytest.raises(InputError, match="BIFUSION_PLUGINS=my_rooms bifusion"):
            cli.COMMANDS[command[0]]([*command[1:], *(["--out", str(tmp_path)] * (len(command) == 3))])
    with pytest.raises(InputError, match="code of the package my_rooms"):
        cli.COMMANDS["train"]([str(run / "config.json"), "--out", str(tmp_path / "again")])


def test_own_scenes_and_scene_folders_are_predicted(run, rooms, tmp_path):
    plugins.allow("my_rooms")
    own = Segmenter(run, device="cpu").predict(rooms / "val" / "roomval0").write(tmp_path / "own")
    folder = make_tiny_scene(tmp_path / "folder", seed=100)
    usual = Segmenter(run, device="cpu").predict(folder).write(tmp_path / "usual")
    assert [path.read_bytes() for path in own[:2]] == [path.read_bytes() for path in usual[:2]]
    with pytest.raises(InputError, match="my_rooms.data:scenes gives roomval0"):
        Segmenter(run, device="cpu").predict(rooms / "val" / "roomval7").write(tmp_path / "none")


def test_an_interrupted_run_goes_on_to_the_bit(run, rooms, tmp_path):
    config = get_recipe(RECIPE)
    config.data.root = rooms
    out = tmp_path / "own"
    status = train(config, out, on_epoch=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert status.state == "interrupted"
    options = ["--data.root", str(rooms), "--out", str(out), "--resume"]
    assert cli.COMMANDS["train"]([RECIPE, *options]) == 0
    whole, resumed = load_model(run)[0].state_dict(), load_model(out)[0].state_dict()
    for part in ("tower.block.", "unet.second.", "fusion.gate.linear."):
        assert any(name.startswith(part) for name in whole), part
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_an_author_froze_stays_as_it_is(rooms, tmp_path):
    config = get_recipe(RECIPE)
    config.data.root, config.model.unet.function = rooms, "my_rooms.networks:frozen_stem"
    plugins.allow("my_rooms")
    built = build_model(config.model, config.seed, config.labels).state_dict()
    status = train(config, tmp_path / "run", on_epoch=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert status.state == "interrupted" and status.epochs_done == 1
    assert train(config, tmp_path / "run", resume=True).state == "completed"
    trained = load_model(tmp_path / "run")[0].state_dict()
    moved = {name for name in built if name.startswith("unet.") and not built[name].equal(trained[name])}
    assert "unet.first.weight" not in moved and "unet.second.weight" in moved
    # where it lies among the optimiser's parameters does not depend on what is frozen
    state = load_training_state(tmp_path / "run/checkpoints/last")["optimizer"]
    counted = sum(len(part["params"]) for part in state["param_groups"])
    assert len(state["state"]) == counted - 1 and counted == len(list(_parameters(config)))
    assert _steps(tmp_path / "run")[-1]["grad_norm"]["backbone"] > 0


def _parameters(config):
    return build_model(config.model, config.seed, config.labels).parameters()


def test_wrong_maps_and_misspelt_weights_end_the_run_as_it_starts(rooms, tmp_path):
    config = get_recipe(RECIPE)
    config.data.root = rooms
    config.criterion.extra = {}
    with pytest.raises(InputError, match="'confident', which is no loss term"):
        train(config, tmp_path / "misspelt")
    assert not (tmp_path / "misspelt" / "steps.jsonl").exists()
    config = get_recipe(RECIPE)
    config.data.root, config.model.tower = rooms, OutsideTowerConfig("my_rooms.towers:wrong_maps")
    with pytest.raises(InputError, match=r"'stripes, from scratch' made maps of shapes \[\(8, "):
        train(config, tmp_path / "maps")


def test_info_and_compare_take_a_recipe_from_outside(tmp_path, monkeypatch, capsys):
    assert cli.COMMANDS["info"]([RECIPE]) == 0
    assert "tower.block0" in capsys.readouterr().out
    # the process of the run finds the package where this one does
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*map(os.path.abspath, _paths()), str(TESTS)]))
    data = make_tiny_data(tmp_path / "data", train=2, val=1)
    arguments = ["my_rooms.recipes:plain", "--data", str(data), "--epochs", "1"]
    assert cli.COMMANDS["compare"]([*arguments, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "my_rooms.recipes.plain-seed0" in json.dumps(report)


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
