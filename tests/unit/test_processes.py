"""What the processes of a run do together: shares, sums in order, agreement, one that ends or hangs."""

from __future__ import annotations

import dataclasses
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import evaluation

from bifusion.config.guard import GuardConfig
from bifusion.datasets.shards import WHOLE, Shard, asked_shard, launched_shard
from bifusion.errors import InputError
from bifusion.evaluation.evaluator import Evaluator
from bifusion.labels.sets import get_label_set
from bifusion.models.build import build_model
from bifusion.runs.run_data import data_of
from bifusion.training.processes import group
from bifusion.training.processes.agreement import model_facts, require_agreement, starting_facts
from bifusion.training.processes.requeue import requeue, signal_of
from bifusion.training.processes.watch import Watch
from bifusion.training.validation import count_share, validation_loader
from bifusion.types import FusionControl
from tiny_runs import make_tiny_data, tiny_config


class Together:
    """Stands in for `group`: threads of this process are the processes."""

    def __init__(self, count: int):
        self.total, self.own = count, threading.local()
        self._given: list[Any] = [None] * count
        self._meeting = threading.Barrier(count, timeout=60)

    def number(self) -> int:
        return self.own.number

    def count(self) -> int:
        return self.total

    def gather(self, value: Any) -> list[Any]:
        self._given[self.number()] = value
        self._meeting.wait()
        given = list(self._given)
        self._meeting.wait()
        return given

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """What `work` gives, or raises, on each."""
        results: list[Any] = [None] * self.total

        def one(number: int) -> None:
            self.own.number = number
            try:
                results[number] = work(number)
            except InputError as error:
                results[number] = error

        threads = [threading.Thread(target=one, args=(number,)) for number in range(self.total)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Together]:
    def make(count: int) -> Together:
        made = Together(count)
        for name in ("number", "count", "gather"):
            monkeypatch.setattr(group, name, getattr(made, name))
        return made

    return make


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_tiny_data(tmp_path_factory.mktemp("rooms"), train=1, val=3)


@pytest.mark.parametrize("recipe", ["bifusion_small", "oneformer3d_small"])
def test_any_number_of_processes_has_the_same_figures(data, together, recipe):
    """Three scenes on one, two and three: to the last digit, with the same pictures."""
    config = tiny_config(recipe, data)
    control = FusionControl()
    models = [build_model(config.model, config.seed, config.labels) for _ in range(3)]

    def evaluate(number: int = 0):
        loader = validation_loader(config, max_views=2)
        return count_share(models[number], loader, config, control, by_point=True).outcome()

    alone = evaluate()
    for count in (2, 3):
        for outcome in together(count).run(evaluate):
            assert _same(outcome.metrics, alone.metrics)
            assert _same(outcome.points.by_sight(), alone.points.by_sight())
            assert _same(outcome.points.gate(), alone.points.gate())
            names = [result.name for result in outcome.first_results]
            assert names == [truth.name for truth in outcome.first_truths] == ["roomval0", "roomval1"]
    if recipe == "bifusion_small":
        assert alone.metrics["alignment"]["cosine"] is not None, "there are sums of floats"


def test_evaluators_of_a_scene_each_add_up_to_one_of_all():
    setting = evaluation.Setting(points=3000, masks=20)
    labels = get_label_set(setting.label_set)
    whole, merged, again = (Evaluator(labels) for _ in range(3))
    pieces = []
    for index in range(4):
        scene = evaluation.draw_scene(setting, labels, index)
        whole.add(evaluation.spread(scene), scene.truth)
        pieces.append(Evaluator(labels))
        pieces[-1].add(evaluation.spread(scene), scene.truth)
    for piece in pieces:
        merged.merge(piece)
        again.merge(pickle.loads(pickle.dumps(piece)))
    assert _same(merged.compute(), again.compute()) and merged.num_scenes == 4
    for name, figure in whole.compute().items():
        if isinstance(figure, float):
            assert merged.compute()[name] == pytest.approx(figure, rel=1e-12, nan_ok=True), name
    assert whole.compute()["mask_coverage"] > 0.1
    instances = Evaluator(labels)
    without = dataclasses.replace(
        evaluation.spread(scene), semantic=None, panoptic_semantic=None, panoptic_instance=None
    )
    instances.add(without, scene.truth)
    with pytest.raises(ValueError, match="some results have a semantic part and others have none"):
        merged.merge(instances)


def _same(one: Any, other: Any) -> bool:
    """As ==, but NaN is NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other or np.array_equal(np.array(one, float), np.array(other, float), equal_nan=True)


def test_each_scene_is_counted_once(data, together):
    config = tiny_config("oneformer3d_small", data)
    models = [build_model(config.model, config.seed, config.labels) for _ in range(2)]
    seen: list[list[str]] = [[], []]

    def count(number: int) -> None:
        loader = validation_loader(config, max_views=0)
        count_share(models[number], loader, config, FusionControl(), at=seen[number].append)

    together(2).run(count)
    assert seen == [[f"validating roomval{k}" for k in places] for places in ((0, 2), (1,))]


def test_a_piece_that_two_give_is_no_result(together):
    def give(number: int) -> list[Any]:
        pieces = group.Pieces()
        pieces.add(3, number)
        with pytest.raises(AssertionError, match="two processes gave a piece of place 3"):
            list(pieces.in_order())
        return []

    assert together(2).run(give) == [[], []]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("optim.lr", lambda config, data: setattr(config.optim, "lr", 0.5)),
        ("trainer.guard.rollback_after", lambda config, data: setattr(
            config.trainer, "guard", GuardConfig(rollback_after=9))),
        ("version of torch", lambda config, data: data.versions.update(torch="1.0")),
        ("data train/roomtrain0/coord.npy", lambda config, data: data.scenes[
            "train/roomtrain0"].pop("coord.npy")),
        ("data val/roomval9", lambda config, data: data.scenes.update({"val/roomval9": {}})),
    ],
)  # fmt: skip
def test_a_process_that_has_another_start_is_named(data, together, field, change):
    def start(number: int) -> None:
        config = tiny_config("oneformer3d_small", data)
        found = data_of(config)
        if number == 1:
            change(config, found)
        else:
            config.trainer.workers = 7  # may differ
        require_agreement(lambda: starting_facts(config, found), "start")

    for error in together(3).run(start):
        assert isinstance(error, InputError)
        assert f"{field}: rank 0 has " in str(error) and ", rank 1 " in str(error)


def test_the_same_start_is_agreed_on_and_other_weights_are_named(data, together):
    config = tiny_config("oneformer3d_small", data)
    found = data_of(config)
    assert together(2).run(lambda k: require_agreement(lambda: starting_facts(config, found), "")) == [
        None, None,
    ]  # fmt: skip

    models = [build_model(config.model, config.seed, config.labels) for _ in range(2)]
    next(models[1].parameters()).data.view(-1)[0] += 1e-3

    def go_on(number: int) -> None:
        require_agreement(lambda: model_facts(models[number], {"step": 4}), "state to go on from")

    errors = together(2).run(go_on)
    assert all("weights " in str(error) and "step" not in str(error) for error in errors)


# ------------------------------------------------------------------------------------------- the watch


@dataclasses.dataclass
class Left:
    """What ended each process because of another one."""

    lines: dict[int, str] = dataclasses.field(default_factory=dict)


def watch(left: Left, number: int, hang_seconds: float = 600.0) -> Watch:
    noted = threading.Event()

    def leave(line: str) -> None:
        left.lines[number] = line
        noted.set()

    made = Watch(hang_seconds, leave=leave)
    made.noted = noted  # type: ignore[attr-defined]
    return made


def test_processes_that_end_well_end_quietly(together):
    left = Left()

    def work(number: int) -> None:
        with watch(left, number) as watching:
            watching.at("step 1")

    together(3).run(work)
    assert left.lines == {}


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_of_one_ends_the_others_naming_it(together, failing):
    left = Left()

    def work(number: int) -> None:
        with watch(left, number) as watching:
            if number == failing:
                raise InputError("scene7: coord.npy is damaged")
            watching.noted.wait(60)

    together(3).run(work)
    assert set(left.lines) == {0, 1, 2} - {failing}
    for line in left.lines.values():
        assert f"rank {failing} (" in line and "ended: InputError: scene7: coord.npy is damaged" in line


def test_what_hangs_is_told_with_what_each_was_doing(together):
    left = Left()

    def work(number: int) -> None:
        with watch(left, number, hang_seconds=1.0) as watching:
            watching.at("loading the batches of step 7" if number == 1 else "step 7")
            watching.noted.wait(60)

    together(2).run(work)
    assert set(left.lines) == {0, 1}
    for line in left.lines.values():
        assert "the run hangs" in line
        assert "rank 0 (" in line and "step 7, for" in line
        assert "rank 1 (" in line and "loading the batches of step 7, for" in line


def test_one_process_is_not_watched():
    with Watch(0.0) as watching:
        watching.at("step 1")
        time.sleep(0.01)


# ------------------------------------------------------------------------------------- schedulers


def test_the_launcher_says_which_of_how_many(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert launched_shard() is None and asked_shard(None) == WHOLE
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "2")
    assert launched_shard() is None, "a batch script is no task of several"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert asked_shard(None) == Shard(3, 4) and asked_shard("1/2") == Shard(1, 2)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("TORCHELASTIC_RUN_ID", "none")):
        monkeypatch.setenv(name, value)
    assert launched_shard() == Shard(1, 2)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A scontrol that tells of a job and notes what it is asked."""

    def make(job: str) -> Path:
        log, program = tmp_path / "asked", tmp_path / "bin" / "scontrol"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho "$@" >> {log}\necho "JobId=77 {job}"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        return log

    return make


@pytest.mark.parametrize(
    ("job", "signal_name", "asked"),
    [
        ("JobState=RUNNING Requeue=1 Restarts=0", "SIGUSR1", True),
        ("JobState=TIMEOUT Requeue=1", "SIGTERM", True),
        ("JobState=RUNNING Requeue=0", "SIGUSR1", False),
        ("JobState=CANCELLED Requeue=1", "SIGTERM", False),
        ("JobState=RUNNING Requeue=1", "SIGINT", False),
    ],
)
def test_a_job_is_requeued_where_slurm_allows_it(slurm, job, signal_name, asked):
    log = slurm(job)
    told = requeue(signal_name)
    requests = log.read_text().splitlines() if log.exists() else []
    assert ("requeue 77" in requests) == asked == (told is not None)


def test_without_slurm_nothing_is_requeued_and_a_silent_one_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue("SIGUSR1") is None
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "SLURM does not answer" in str(requeue("SIGUSR1"))
    assert signal_of("received SIGUSR1") == "SIGUSR1" and signal_of("data worker 1 of 2") is None


def test_buffers_of_a_single_process_stay():
    model = torch.nn.BatchNorm1d(3)
    model.running_mean.fill_(2.0)
    group.share_buffers(model)
    assert model.running_mean.tolist() == [2.0] * 3
