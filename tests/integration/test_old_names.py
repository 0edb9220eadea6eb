"""A run folder of before names changed loads, predicts, evaluates, goes on and is compared.

tests/data/run_of_old_names.tar.xz was made with the code of commit 2d8d679, which called the image tower
"clip", by tests/data/run_of_old_names.sh.
"""

import json
import tarfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bifusion.cli import COMMANDS
from bifusion.config import old_names
from bifusion.config.run import config_from_dict, config_to_dict, load_config
from bifusion.datasets.rooms.config import RoomsConfig
from bifusion.datasets.rooms.rooms import make_rooms
from bifusion.labels.sets import SCANNET20
from bifusion.models.parts import part_of_group
from bifusion.models.towers.clip import ClipConfig
from bifusion.models.towers.outside import OutsideTowerConfig
from bifusion.models.towers.pixels import PixelsConfig
from bifusion.recipes import get_recipe
from bifusion.recipes.ablations import MEASURES
from bifusion.runs.trained_model import load_model
from bifusion.studies.figures.run import load_run

STORED = Path(__file__).parents[1] / "data" / "run_of_old_names.tar.xz"
ROOMS = RoomsConfig(
    train_rooms=2,
    val_rooms=1,
    room_size_m=(3.0, 3.2),
    point_spacing_m=0.12,
    views=3,
    image_size=(96, 72),
    depth_size=(64, 48),
)
STEPS, ALL_STEPS = 15, 20


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    make_rooms(root, ROOMS, workers=1)
    return root


@pytest.fixture
def folder(tmp_path, rooms, monkeypatch):
    """The folder in which it was trained: "run" beside "rooms"."""
    with tarfile.open(STORED) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "rooms").symlink_to(rooms)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_its_configuration_is_read_with_the_names_of_today(folder):
    stored = json.loads((folder / "config.json").read_text())["config"]
    assert "clip" in stored["model"] and "clip_layer_decay" in stored["optim"]
    config, recipe = load_config(folder / "config.json"), get_recipe("bifusion_tiny")
    assert config.model.tower.width == stored["model"]["clip"]["width"] == 8
    assert (
        stored["model"]["label_set"] == "scannet20" and config.labels == config.data.labels == SCANNET20
    )
    # it was trained with S4's raw numbers and instances ramping in, then the default
    early_score = MEASURES["late_score"].apply(get_recipe("bifusion_tiny_no_loss_balance"))
    former = MEASURES["late_instances"].apply(early_score)
    assert config.stages == former.stages and config.optim == recipe.optim
    assert config.trainer.tower_cache == stored["trainer"]["clip_cache"]


def test_its_weights_are_those_of_its_file(folder):
    model, _ = load_model(folder)
    raw = load_file(folder / "checkpoints" / "last" / "model.safetensors")
    assert "clip.conv1_rgb.weight" in raw
    weights = model.state_dict()
    assert len(raw) == len(weights)
    for name, tensor in raw.items():
        assert weights[name.replace("clip.", "tower.")].equal(tensor)


def test_its_records_and_parameters_speak_of_the_tower(folder):
    run = load_run(folder)
    assert run.tower is not None and len(run.steps) == STEPS
    assert run.settings["model"]["tower"]["width"] == 8
    assert [group for group in run.parameters if part_of_group(group) is None] == ["total"]
    assert run.steps[-1]["grad_norm"]["tower"] > 0 and "clip" not in run.steps[-1]["grad_norm"]
    assert run.steps[-1]["lr"]["tower.block3"] > 0


def test_it_is_evaluated_predicted_and_compared(folder):
    (scene,) = Path("rooms/val").iterdir()
    assert COMMANDS["evaluate"](["run"]) == 0
    assert COMMANDS["predict"](["run", str(scene), "--out", "predictions"]) == 0
    assert any(Path("predictions").iterdir())
    assert COMMANDS["compare"](["--runs", "run", "--out", "compared"]) == 0
    page = Path("compared/report.html").read_text()
    assert "image tower" in page


def test_it_goes_on(folder):
    """With its moments, the windows of its rules, and one set of names in its records."""
    assert COMMANDS["train"](["run/config.json", "--out", "run", "--resume"]) == 0
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(ALL_STEPS))
    assert all("tower" in line["grad_norm"] and "clip" not in line["grad_norm"] for line in lines)
    weights = load_file(folder / "checkpoints" / "last" / "model.safetensors")
    assert "tower.conv1_rgb.weight" in weights
    assert load_config(folder / "config.json").trainer.epochs == ALL_STEPS


def test_a_class_that_is_called_as_a_part_was_keeps_its_name():
    record = {"grad_norm": {"clip": 1.0}, "val": {"iou": {"clip": 0.5}}, "scenes": ["clip"]}
    record["alarms"] = [{"where": ["gradient.clip"], "scenes": ["clip"]}]
    updated = old_names.RECORD.updated(record)
    assert updated["grad_norm"] == {"tower": 1.0} and updated["alarms"][0]["where"] == ["gradient.tower"]
    assert updated["val"]["iou"] == {"clip": 0.5}
    assert updated["scenes"] == updated["alarms"][0]["scenes"] == ["clip"]
    view = {"where": ["input.views.clip-07.0003.image"]}
    assert old_names.RECORD.updated({"event": view, "alarms": [view]}) == {
        "event": view,
        "alarms": [view],
    }
    assert old_names.BUNDLE.updated({"events": [view]}) == {"events": [view]}


@pytest.mark.parametrize(
    ("said", "tower"),
    [
        ({"use_clip": True, "image_features": "clip"}, ClipConfig("small", "a.pt", blocks=2)),
        ({}, ClipConfig("small", "a.pt", blocks=2)),
        ({"use_clip": False, "image_features": "clip"}, None),
        ({"use_clip": True, "image_features": "rgb"}, PixelsConfig()),
        ({"image_features": "a.b:c"}, OutsideTowerConfig("a.b:c", "a.pt")),
    ],
)
def test_what_stood_in_the_place_of_clip_is_one_tower(said, tower):
    value = config_to_dict(get_recipe("bifusion_small"))
    was = {"architecture": "small", "pretrained": "a.pt", "blocks": 2}
    value["model"] = {**value["model"], **said, "tower": was}
    assert config_from_dict(value).model.tower == tower
    updated = old_names.update_description({"config": value})["config"]["model"]
    assert "use_clip" not in updated and (updated["tower"] or {}).get("kind") == getattr(
        tower, "kind", None
    )


def test_names_of_today_stay():
    recipe = get_recipe("bifusion_small")
    assert config_from_dict(config_to_dict(recipe)) == recipe
