"""Dose and response end to end: rooms with and without texture, audited, trained on, compared."""

import json

import pytest
from rich.console import Console

from bifusion.datasets.rooms import RoomsConfig
from bifusion.datasets.rooms.pretraining.config import TowerPretrainConfig
from bifusion.inference.evaluate import evaluate_run
from bifusion.studies.dose import run as dose
from bifusion.training.train import train
from forked_runs import small_pretraining_rooms, small_rooms


def train_here(runs, *, jobs, console, report, accept_changes):
    """Instead of `train_runs`, whose processes take longer to start than these runs to train."""
    for run in runs:
        if run.finished:
            console.print(f"{run.folder.name}: finished before, taken as it is")
            continue
        train(run.config, run.folder, resume=True)
        evaluate_run(run.folder)
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two values, two rooms, three epochs; what the first and the second call printed."""
    wanted = dose.DoseConfig(
        knob="texture_contrast",
        values=(0.0, 1.0),
        out=tmp_path_factory.mktemp("dose") / "run",
        recipes=("bifusion_tiny", "bifusion_tiny_without_views"),
        epochs=3,
        rooms=small_rooms(2),
        probe_rooms=4,
        pretraining_rooms=2,
        pretraining=TowerPretrainConfig(steps=3),
    )
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dose, "train_runs", train_here)
        patch.setattr(RoomsConfig, "for_pretraining", small_pretraining_rooms)
        for _ in range(2):
            console = Console(record=True, width=160)
            assert dose.run_dose(wanted, console) == 0
            printed.append(console.export_text())
    return wanted, printed


def test_every_value_has_rooms_audit_runs_and_a_report_of_its_own(finished):
    wanted, _ = finished
    told = json.loads((wanted.out / "dose.json").read_text())
    assert told["complete"]
    assert [level["expected_zero"] for level in told["levels"]] == [True, False]
    for level in told["levels"]:
        folder = wanted.out / level["folder"]
        stored = json.loads((folder / "rooms" / "rooms.json").read_text())
        assert stored["texture_contrast"] == level["value"]
        assert (folder / "report.html").exists() and (folder / "rooms" / "audit.json").exists()
        assert level["audit"]["oracle_miou"] > 0.5 and 0 < level["audit"]["seen_share"] < 1
        staged, plain = (level["arms"][key] for key in ("staged", "without_views"))
        difference = staged["miou"]["all"]["mean"] - plain["miou"]["all"]["mean"]
        assert staged["gain"]["all"]["mean"] == pytest.approx(difference)


def test_both_values_share_the_tower(finished):
    told = json.loads((finished[0].out / "dose.json").read_text())
    assert all("tower-small.safetensors" in arm["tower"] for arm in told["arms"])


def test_a_second_call_takes_what_is_there(finished):
    first, second = finished[1]
    assert first.count("taken as it is") == 0
    assert second.count("finished before, taken as it is") == 4
    assert "image tower" in second and "dose.html" in second and "expected gain is zero" in second
