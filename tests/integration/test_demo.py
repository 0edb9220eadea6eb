"""The whole main job, end to end, in its smallest form: everything `make demo` leaves is there."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro
from plyfile import PlyData
from rich.console import Console

from bifusion.datasets.rooms import RoomsConfig
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig
from bifusion.studies.demo import DEMO_RECIPES, DemoConfig, run_demo, with_more_seeds
from bifusion.studies.training_runs import train
from bifusion.studies.training_runs.plan import plan_runs
from forked_runs import small_pretraining_rooms, small_rooms, subprocesses


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoConfig, str]:
    """A demo of two training rooms and three epochs, and what it printed."""
    wanted = DemoConfig(
        out=tmp_path_factory.mktemp("demo") / "run",
        epochs=3,
        jobs=2,
        rooms=small_rooms(2),
        pretraining_rooms=2,
        pretraining=TowerPretrainConfig(steps=3),
    )
    console = Console(record=True, width=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "subprocess", subprocesses)
        patch.setattr(RoomsConfig, "for_pretraining", small_pretraining_rooms)
        assert run_demo(wanted, console) == 0
    return wanted, console.export_text()


def test_leaves_a_validated_report_of_all_arms(finished):
    out = finished[0].out
    report = json.loads((out / "report.json").read_text())
    text = json.dumps(report)
    for arm in ("baseline", "mask3d", "staged", "without_views", "naive"):
        assert f'"{arm}"' in text
    assert "<html" in (out / "report.html").read_text()[:500].lower()


def test_few_epochs_are_never_called_a_final_verdict(finished):
    report = json.loads((finished[0].out / "report.json").read_text())
    outcomes = {v["outcome"] for v in report["verdicts"] if v["criterion"] == "stability"}
    assert outcomes <= {"indicative pass", "indicative fail"}


def test_predicts_a_room_that_was_not_trained_on(finished):
    out = finished[0].out
    cloud = PlyData.read(str(out / "prediction" / "semantic.ply"))["vertex"]
    room = sorted((out / "rooms-seed0" / "val").iterdir())[0]
    assert cloud.count == len(np.load(room / "coord.npy"))
    assert set(np.unique(cloud["label"])) <= set(range(-1, 20))
    assert f"<title>{room.name}" in (out / "prediction" / "view.html").read_text()


def found_something(prediction: Path) -> bool:
    """Three epochs may be too few for Mask3D to find an object; the others label every point."""
    with np.load(prediction) as arrays:
        return bool((arrays["semantic"] >= 0).any() or (arrays["panoptic_instance"] >= 0).any())


def test_the_report_links_to_what_each_arm_made_of_the_room(finished):
    out = finished[0].out
    links = set(re.findall(r'href="(views/[^"]+)"', (out / "report.html").read_text()))
    found = [path for path in out.glob("*/predictions/*.npz") if found_something(path)]
    assert len(links) == len(found) >= len(DEMO_RECIPES) - 1
    assert links == {f"views/{path.name}" for path in (out / "views").iterdir()}


def test_prints_table_places_and_next_commands(finished):
    (out, text), run = (finished[0].out, finished[1]), "bifusion_small-seed0"
    for word in ("report.html", "semantic.ply", "bifusion scan --help", "mIoU"):
        assert word in text
    for command in (
        f"bifusion predict {out / run} ",
        "the same command with --seeds 0 1 2 ",
    ):
        assert command in text


def test_the_next_command_goes_on_with_what_was_asked_for(tmp_path: Path):
    wanted = DemoConfig(out=tmp_path / "two words", seeds=(100,), jobs=1)
    command = shlex.split(with_more_seeds(wanted))
    assert command[:2] == ["bifusion", "demo"]
    parsed = tyro.cli(DemoConfig, args=command[2:])
    assert parsed == DemoConfig(out=tmp_path / "two words", seeds=(100, 101, 102))
    for other in (
        {"epochs": 4},
        {"recipes": ("bifusion_small",)},
        {"pretraining": TowerPretrainConfig(objective="views")},
    ):
        told = with_more_seeds(dataclasses.replace(wanted, **other))
        assert told == "the same command with --seeds 100 101 102"


def test_a_second_call_takes_what_is_finished(finished):
    wanted = finished[0]
    files = list(wanted.out.rglob("checkpoints/*/*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in files}
    console = Console(record=True, width=120)
    assert run_demo(wanted, console) == 0
    assert before == {path: path.stat().st_mtime_ns for path in files}
    assert console.export_text().count("taken as it is") >= len(DEMO_RECIPES)


def test_planned_runs_share_data_and_length_and_differ_in_seed(tmp_path: Path):
    runs = plan_runs(DEMO_RECIPES, (0, 1), tmp_path, tmp_path / "out", epochs=30)
    assert len({run.folder for run in runs}) == 2 * len(DEMO_RECIPES)
    assert {run.config.data.root for run in runs} == {tmp_path}
    assert {run.config.trainer.epochs for run in runs} == {30}
    assert [run.config.seed for run in runs] == [0] * len(DEMO_RECIPES) + [1] * len(DEMO_RECIPES)
