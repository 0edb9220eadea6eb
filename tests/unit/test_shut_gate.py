"""A gate that is shut (s is 0) has no mean, whoever asks: null, and not 0, which is a dead one's."""

import dataclasses
import json
import math

import numpy as np

from bifusion.evaluation.gate_figures import GateFigures
from bifusion.evaluation.sight import Sight
from bifusion.labels.label_set import LabelSet
from bifusion.studies.ablation.figures import measure_run
from bifusion.studies.comparison.run import write_report
from bifusion.studies.comparison.verdicts import judge_fusion
from bifusion.studies.figures.arms import group_runs
from bifusion.studies.figures.gate import learned_alpha
from bifusion.studies.figures.run import load_run
from bifusion.studies.sweep.signals import signals_of
from run_factory import FakeRun

LABELS = LabelSet.of("tiny", ("wall", "chair"), (1, 5), stuff_classes=(0,))
SIGHT = Sight(np.array([1, 2]), np.array([0.5, 1.5], dtype=np.float32))


def gate_step(**gate):
    return {"gate": {"scale": 1.0, "alpha_mean": 0.02, "alpha_std": 0.01, "learned": True, **gate}}


def judged(folder, gate):
    """The fusion verdict on a run whose evaluation says this of its gate."""
    path = folder / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["full"]["fusion_2d_ratio"] = gate
    path.write_text(json.dumps(evaluation))
    (arm,) = group_runs([load_run(folder)])
    return judge_fusion(arm)


def test_an_evaluation_point_by_point_has_nothing_of_a_shut_gate():
    shut, dead = GateFigures(LABELS), GateFigures(LABELS)
    shut.add(np.zeros(2), np.zeros(2, dtype=np.int64), SIGHT, learned=False)
    assert shut.compute() is None
    dead.add(np.zeros(2), np.zeros(2, dtype=np.int64), SIGHT, learned=True)
    told = dead.compute()
    assert told is not None and told["mean"] == 0


def test_no_study_takes_a_shut_gate_for_one_of_0(tmp_path):
    folder = FakeRun(epochs=3).write(tmp_path / "runs")
    verdict = judged(folder, None)
    assert (verdict.outcome, verdict.evidence) == (
        "not judged", "The evaluation holds no learned gate that was open.",
    )  # fmt: skip
    assert math.isnan(measure_run(folder).figures["gate"])
    assert math.isnan(signals_of(load_run(folder), {}).gate)
    report = write_report([folder], tmp_path / "report", room_views=False)
    assert not report.arms[0].figures.fusion_2d_ratio.by_seed
    assert "mean gate in validation" not in json.dumps(dataclasses.asdict(report))


def test_a_gate_that_lets_nothing_through_fails(tmp_path):
    """float32 makes exactly 0 of the sigmoid of −104, float16 of that of −18."""
    verdict = judged(FakeRun(epochs=3).write(tmp_path), 0.0)
    assert verdict.outcome == "fail", verdict.evidence


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
