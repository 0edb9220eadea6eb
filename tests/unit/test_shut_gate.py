"""A gate that is shut (s is 0) has no mean, whoever asks: it is null, and never 0."""

import dataclasses
import json
import math

import numpy as np
import pytest

from bifusion.evaluation.gate_figures import GateFigures
from bifusion.evaluation.sight import Sight
from bifusion.labels.label_set import LabelSet
from bifusion.studies.ablation.figures import measure_run
from bifusion.studies.comparison.report import Verdict
from bifusion.studies.comparison.run import write_report
from bifusion.studies.comparison.verdicts import judge_fusion
from bifusion.studies.dose.judge import gate_at_level
from bifusion.studies.figures.arms import group_runs
from bifusion.studies.figures.gate import learned_alpha
from bifusion.studies.figures.run import load_run
from bifusion.studies.sweep.signals import signals_of
from run_factory import FakeRun

LABELS = LabelSet.of("tiny", ("wall", "chair"), (1, 5), stuff_classes=(0,))
SIGHT = Sight(np.array([1, 2]), np.array([0.5, 1.5], dtype=np.float32))


def gate_step(**gate):
    return {"gate": {"scale": 1.0, "alpha_mean": 0.02, "alpha_std": 0.01, "learned": True, **gate}}


@pytest.fixture(scope="module")
def shut(tmp_path_factory):
    """A run of an older version, whose evaluation says 0 of a gate that its plan keeps shut."""
    zeros = {"points": 10, "mean": 0.0, "std": 0.0, "std_within_scenes": 0.0, "histogram": [10]}
    fake = FakeRun(epochs=3, evaluation={"gate": zeros})
    folder = fake.write(tmp_path_factory.mktemp("shut"))
    path = folder / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["full"]["fusion_2d_ratio"] = 0.0
    path.write_text(json.dumps(evaluation))
    return folder


def test_an_evaluation_point_by_point_has_nothing_of_it():
    figures, other = GateFigures(LABELS), GateFigures(LABELS)
    figures.add(np.zeros(2), np.zeros(2, dtype=np.int64), SIGHT, learned=True)
    assert figures.compute() is None
    other.add(np.array([0.0, 0.4]), np.zeros(2, dtype=np.int64), SIGHT, learned=True)
    figures.merge(other)
    told = figures.compute()
    assert told is not None and told["points"] == 4


def test_every_study_says_the_same_of_a_run_that_says_0(shut):
    run = load_run(shut)
    assert math.isnan(measure_run(shut).figures["gate"])
    assert math.isnan(signals_of(run, {}).gate)
    (arm,) = group_runs([run])
    assert gate_at_level(arm, set()) is None
    verdict: Verdict = judge_fusion(arm)
    assert (verdict.outcome, verdict.evidence) == (
        "not judged", "The evaluation holds no learned gate that was open.",
    )  # fmt: skip


def test_the_report_has_no_mean_of_it(shut, tmp_path):
    report = write_report([shut], tmp_path, room_views=False)
    assert not report.arms[0].figures.fusion_2d_ratio.by_seed and not report.gate
    assert "mean gate in validation" not in json.dumps(dataclasses.asdict(report))


def test_alpha_counts_while_it_is_learned_and_acts():
    steps = [
        gate_step(),
        gate_step(scale=0.0),
        gate_step(learned=False),
        {"gate": None},
        gate_step(learned=None, alpha_std=0.0),
        gate_step(learned=None),
        gate_step(alpha_std=0.0),
    ]
    assert np.isfinite(learned_alpha(steps)).tolist() == [True, *[False] * 4, True, True]


def test_a_gate_that_died_is_judged(tmp_path):
    """It gives all voxels one α; so does one that is held, but that is not learned."""
    folder = FakeRun(epochs=3, gate=0.01).write(tmp_path)
    path = folder / "steps.jsonl"
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    for step in filter(lambda step: step["gate"], steps):
        step["gate"] |= {"alpha_std": 0.0, "learned": True}
    path.write_text("".join(json.dumps(step) + "\n" for step in steps))
    (arm,) = group_runs([load_run(folder)])
    assert judge_fusion(arm).evidence.endswith("The gate lies outside its range.")
