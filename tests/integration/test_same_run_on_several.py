"""One run on several processes is the run of one process: weights, figures, faults and what followed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bifusion.config.run import load_config
from bifusion.errors import InputError
from bifusion.runs.trained_model import load_model
from bifusion.step.runtime import as_launched
from bifusion.training.train import train
from gloo import run_processes
from several_runs import SCENES, config_of, run_case
from tiny_runs import make_tiny_data

TWO = ("oneformer3d", "bifusion", "faulty")
"""Cases of several_runs.py."""
FOUR = ("oneformer3d", "faulty")
RIGHT = "norms and gradients are right"
"""What every process says once `several_norms.check` has found nothing."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=SCENES, val=1)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """Runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    for case in dict.fromkeys((*TWO, *FOUR)):
        run_case(case, data, folder / case, 1)
    return folder


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    told = run_processes(2, "several_runs.py", data, folder, *TWO, "resumed")
    assert all(RIGHT in text for text in told)
    return folder


@pytest.fixture(scope="module")
def four(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    told = run_processes(4, "several_runs.py", data, folder, *FOUR)
    assert all(RIGHT in text for text in told)
    return folder


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def assert_same_run(run: Path, alone: Path) -> None:
    """Weights and running statistics within 1e-5 of their norm, and the figures of every step alike."""
    ours, theirs = (load_model(folder)[0].state_dict() for folder in (run, alone))
    pairs = [(ours[n].double(), t.double()) for n, t in theirs.items() if t.is_floating_point()]
    difference = torch.stack([(a - b).norm() for a, b in pairs]).norm()
    assert difference <= 1e-5 * torch.stack([b.norm() for _, b in pairs]).norm()
    steps = list(zip(lines(run), lines(alone), strict=True))
    assert len(steps) == {"oneformer3d": 20, "bifusion": 10, "faulty": 8}[run.name]
    for one, other in steps:
        assert sorted(one["scenes"]) == sorted(other["scenes"])
        assert one["lr"] == other["lr"]
        if other["event"] is None:
            assert one["total"] == pytest.approx(other["total"], rel=1e-4)
            assert one["losses"] == pytest.approx(other["losses"], rel=1e-3, abs=1e-5)
            assert one["grad_norm"]["total"] == pytest.approx(other["grad_norm"]["total"], rel=1e-3)


def assert_same_actions(run: Path, alone: Path) -> None:
    """The same faults in the same steps, with what followed; of the scenes those of the process that met
    one."""
    ours, theirs = ([(s["step"], s["event"]) for s in lines(r) if s["event"]] for r in (run, alone))
    assert len(theirs) >= 2 and {"skip", "rollback"} <= {event["action"] for _, event in theirs}
    same = ("kind", "phase", "where", "action")
    assert [(step, *(e[k] for k in same)) for step, e in ours] == [
        (step, *(e[k] for k in same)) for step, e in theirs
    ]
    for (_, event), (_, other) in zip(ours, theirs, strict=True):
        assert set(event["scenes"]) < set(other["scenes"])


def assert_alike(run: Path, processes: int) -> None:
    """Weights, statistics and counts of all processes are the same to the bit."""
    records = [json.loads((run / f"process{k}.json").read_text()) for k in range(processes)]
    assert all(record == records[0] for record in records)


@pytest.mark.parametrize("case", TWO)
def test_two_processes_train_the_run_of_one(two, alone, case):
    assert_same_run(two / case, alone / case)
    assert_alike(two / case, 2)
    if case == "faulty":
        assert_same_actions(two / case, alone / case)


def test_a_run_that_was_stopped_goes_on_to_the_bit(two):
    """Within an epoch; to the bit, as the sums of its processes are made in the same order."""
    whole, resumed = (
        json.loads((two / c / "process0.json").read_text()) for c in ("oneformer3d", "resumed")
    )
    assert whole == resumed
    assert [line["step"] for line in lines(two / "resumed")] == list(range(20))
    assert_alike(two / "resumed", 2)


@pytest.mark.slow
@pytest.mark.parametrize("case", FOUR)
def test_four_processes_train_the_run_of_one(four, alone, case):
    """In every second step two of them have no scene of their own."""
    assert_same_run(four / case, alone / case)
    assert_alike(four / case, 4)
    if case == "faulty":
        assert_same_actions(four / case, alone / case)


def test_what_a_run_says_of_its_processes(two, alone):
    told = [
        json.loads((run / "oneformer3d" / "config.json").read_text())["processes"]
        for run in (two, alone)
    ]
    assert told[0] == told[1] | {
        "processes": 2, "devices": 2, "sync_batch_norm": True, "waiting_share": told[0]["waiting_share"],
    }  # fmt: skip
    assert told[0]["scenes_a_step"] == 4 and 0 <= told[0]["waiting_share"] < 0.5
    assert told[1]["waiting_share"] == 0


def test_another_number_of_processes_is_refused_naming_both(two):
    config = load_config(two / "oneformer3d" / "config.json")
    config.trainer.devices, config.trainer.batch_size = 1, 4
    with pytest.raises(InputError, match=r"trainer\.devices: then 2, now 1"):
        train(config, two / "oneformer3d", resume=True)


def test_devices_of_torchrun(data, monkeypatch):
    """Taken over where none are given, else they must be those given."""
    trainer = config_of("oneformer3d", data, 1).trainer
    given = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3"}
    assert as_launched(trainer) == trainer
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = as_launched(trainer)
    assert (found.devices, found.nodes, found.processes, found.scenes_a_step) == (3, 2, 6, 24)
    assert as_launched(found) == found
    found.nodes = 1
    with pytest.raises(
        InputError, match=r"devices is 3 and trainer\.nodes 1, but torchrun started 3 .* 2 nodes"
    ):
        as_launched(found)


@pytest.mark.parametrize(("rule", "factor"), [("as_given", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_learning_rates_follow_the_rule(data, rule, factor):
    trainer = config_of("oneformer3d", data, 1).trainer
    trainer.devices, trainer.nodes, trainer.rate_rule = 2, 2, rule
    assert trainer.rate_factor == factor
