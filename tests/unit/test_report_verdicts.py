"""Every outcome of every verdict, on runs made for it."""

import json

import pytest

from bifusion.studies.comparison.performance import judge_performance
from bifusion.studies.comparison.stage_verdicts import judge_stage_1, judge_stage_2, judge_stages
from bifusion.studies.comparison.verdicts import judge_fusion, judge_stability
from bifusion.studies.figures.arms import group_runs
from bifusion.studies.figures.run import load_run
from run_factory import FakeRun
from verdict_arms import arms_of, performance, rivals, seeds, set_in_config

# ----------------------------------------------------------------------------------- stability


@pytest.mark.parametrize(
    ("fake", "outcome"),
    [
        (FakeRun(epochs=20), "pass"),
        (FakeRun(epochs=25, nonfinite={2: 1}), "pass"),  # 22 clean epochs follow
        (FakeRun(epochs=25, nonfinite={12: 1}), "fail"),  # 12 before, 12 after
        (FakeRun(epochs=19), "indicative pass"),
        (FakeRun(epochs=19, nonfinite={18: 1}), "indicative fail"),
        (FakeRun(epochs=40, epochs_done=30, state="guard_stopped", nonfinite={30: 3}), "fail"),
        (FakeRun(epochs=40, epochs_done=5, state="running"), "indicative pass"),
        (FakeRun(epochs=40, epochs_done=22, state="running"), "indicative pass"),
        (FakeRun(epochs=40, epochs_done=22, state="running", nonfinite={10: 1}), "indicative fail"),
        (FakeRun(epochs=40, epochs_done=22, state="interrupted"), "pass"),
    ],
)
def test_stability(tmp_path, fake, outcome):
    verdict = judge_stability(arms_of(tmp_path, fake)[0])
    assert verdict.outcome == outcome


def test_stability_of_an_arm_is_that_of_its_worst_seed(tmp_path):
    fakes = [FakeRun(seed=0), FakeRun(seed=1, nonfinite={12: 2}), FakeRun(seed=2)]
    verdict = judge_stability(arms_of(tmp_path, *fakes)[0])
    assert verdict.outcome == "fail"
    assert "Seed 0, 2:" in verdict.evidence
    assert verdict.figures["seed 1"]["raw_nonfinite"] == 2


def test_the_epoch_in_which_a_guard_stopped_a_run_did_not_end(tmp_path):
    """By spikes, so that no number in it was not finite; its record is there, status.json counts 7."""
    sizes = {"epochs": 48, "steps_per_epoch": 10}
    folder = FakeRun(epochs_done=8, state="guard_stopped", **sizes).write(tmp_path)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"epochs_done": 7}))
    arms = group_runs([load_run(folder), load_run(FakeRun(arm="baseline", **sizes).write(tmp_path))])
    verdict = judge_stability(arms[1])
    assert "ongest row of finite epochs 7 of 7" in verdict.evidence
    assert "its guard stopped it in epoch 7:" in verdict.evidence  # counted from 0
    assert arms[1].first.stages[0].end_epoch == 8
    assert judge_stage_1(arms[1], arms[0]).outcome == "not judged"


def test_nothing_recorded_yet_is_not_judged(tmp_path):
    folder = FakeRun(epochs=40, epochs_done=1, state="running").write(tmp_path)
    for name in ("steps.jsonl", "epochs.jsonl"):
        (folder / name).write_text("")
    assert judge_stability(group_runs([load_run(folder)])[0]).outcome == "not judged"


# --------------------------------------------------------------------------------- performance


def test_performance_passes_with_three_seeds_above_both_rivals(tmp_path):
    verdict = performance(tmp_path, *seeds(arm="staged"), *rivals())
    assert verdict.outcome == "pass"
    assert "(decisive)" in verdict.evidence
    assert verdict.figures["vs without_views"]["mean_difference"] == pytest.approx(0.18)


def test_performance_fails_against_the_decisive_rival_alone(tmp_path):
    fakes = [
        *seeds(arm="staged", miou=0.5),
        *seeds(arm="baseline", miou=0.4),
        *seeds(arm="without_views", miou=0.55),
    ]
    assert performance(tmp_path, *fakes).outcome == "fail"


def test_a_gain_within_its_own_spread_is_indicative(tmp_path):
    fakes = [FakeRun(seed=seed, miou=miou) for seed, miou in enumerate((0.60, 0.45, 0.60))]
    verdict = performance(tmp_path, *fakes, *rivals(miou=0.5))
    assert verdict.outcome == "indicative pass"
    assert "smaller than its spread" in verdict.evidence


@pytest.mark.parametrize(("miou", "outcome"), [(0.6, "indicative pass"), (0.3, "indicative fail")])
def test_under_three_seeds_is_indicative(tmp_path, miou, outcome):
    assert performance(tmp_path, *seeds(2, miou=miou), *rivals(2, miou=0.5)).outcome == outcome


def test_seeds_are_paired(tmp_path):
    fakes = [*seeds(3, miou=0.6), FakeRun(arm="baseline", seed=1), FakeRun(arm="without_views", seed=1)]
    verdict = performance(tmp_path, *fakes)
    assert verdict.outcome == "indicative pass"
    assert list(verdict.figures["vs baseline"]["difference"]) == [1]
    assert "without seed 0, 2, of which there is no pair" in verdict.evidence


def test_a_seed_whose_rival_its_guard_stopped_is_not_left_out_in_silence(tmp_path):
    fakes = [*seeds(4), *seeds(3, arm="baseline"), *seeds(4, arm="without_views")]
    fakes.append(FakeRun(arm="baseline", seed=3, epochs_done=4, state="guard_stopped"))
    verdict = performance(tmp_path, *fakes)
    assert verdict.outcome == "pass"
    assert verdict.evidence.count("without seed 3, of which there is no pair") == 1


def test_without_the_decisive_rival_a_pass_is_indicative(tmp_path):
    verdict = performance(tmp_path, *seeds(), *seeds(arm="baseline"))
    assert verdict.outcome == "indicative pass"
    assert "Not among the runs: BiFusion without views" in verdict.evidence


def test_the_baseline_is_the_yardstick(tmp_path):
    assert performance(tmp_path, FakeRun(arm="baseline"), role="baseline").outcome == "not judged"


def test_mask3d_competes_on_ap(tmp_path):
    verdict = performance(tmp_path, *seeds(arm="mask3d"), *seeds(arm="baseline"), role="mask3d")
    assert verdict.figures["metric"] == "ap"
    assert verdict.outcome == "fail"  # 0.6 · 0.45 against 0.6 · 0.47


def test_an_arm_its_guard_stopped_fails(tmp_path):
    stopped = FakeRun(epochs_done=4, state="guard_stopped", nonfinite={4: 3})
    verdict = performance(tmp_path, stopped, *rivals(1))
    assert verdict.outcome == "fail"
    assert "no end result" in verdict.evidence


def test_a_rival_its_guard_stopped_gives_no_victory(tmp_path):
    stopped = FakeRun(arm="baseline", epochs_done=4, state="guard_stopped", nonfinite={4: 3})
    verdict = performance(tmp_path, FakeRun(), stopped, FakeRun(arm="without_views"))
    assert verdict.outcome == "not judged"
    assert "OneFormer3D was stopped by its guard" in verdict.evidence


def test_while_training_goes_on_nothing_is_judged(tmp_path):
    running = {"epochs_done": 6, "state": "running"}
    fakes = [FakeRun(arm=arm, **running) for arm in ("staged", "baseline", "without_views")]
    verdict = performance(tmp_path, *fakes)
    assert verdict.outcome == "not judged"
    assert "so far mIoU" in verdict.evidence


@pytest.mark.parametrize("miou", [0.5, 0.2])
def test_seeds_that_have_not_ended_keep_a_verdict_open(tmp_path, miou):
    """Else interrupting a bad seed would take it out of the verdict."""
    early = FakeRun(seed=3, epochs_done=20, state="interrupted")
    verdict = performance(tmp_path, *seeds(miou=miou), early, *rivals(miou=0.4))
    assert verdict.outcome == ("indicative pass" if miou > 0.4 else "indicative fail")
    assert "Seed 3 has not come to its end." in verdict.evidence


def test_an_arm_that_was_evaluated_before_its_end_is_not_judged(tmp_path):
    early = FakeRun(epochs_done=20, state="interrupted", evaluated=True)
    assert performance(tmp_path, early, *rivals(1)).outcome == "not judged"


# -------------------------------------------------------------------------------------- fusion


@pytest.mark.parametrize(
    ("fakes", "outcome"),
    [
        (seeds(), "pass"),
        (seeds(gate=0.75), "fail"),
        (seeds(gate=0.29), "fail"),
        (seeds(withheld_cost=0.001), "fail"),  # less than mIoU spreads over the seeds
        (seeds(2), "indicative pass"),
        (seeds(1), "indicative pass"),
        (seeds(1, withheld_cost=-0.01), "indicative fail"),
        (seeds(1, gate=0.9), "fail"),
        (seeds(arm="plan_a"), "not judged"),
        (seeds(arm="without_views"), "not judged"),
        (seeds(arm="baseline"), "not judged"),
        (seeds(gate_learned=False), "not judged"),
        (seeds(1, state="running", epochs_done=3), "not judged"),
        (seeds(1, state="interrupted", epochs_done=20, evaluated=True), "not judged"),
    ],
)
def test_fusion(tmp_path, fakes, outcome):
    verdict = judge_fusion(arms_of(tmp_path, *fakes)[0])
    assert verdict.outcome == outcome, verdict.evidence


def test_one_seed_says_that_it_has_no_spread(tmp_path):
    assert "there is no spread" in judge_fusion(arms_of(tmp_path, FakeRun())[0]).evidence


def test_one_seed_outside_the_range_fails_the_arm(tmp_path):
    fakes = [FakeRun(seed=0, gate=0.5), FakeRun(seed=1, gate=0.5), FakeRun(seed=2, gate=0.71)]
    assert judge_fusion(arms_of(tmp_path, *fakes)[0]).outcome == "fail"


@pytest.mark.parametrize("figure", ["fusion_2d_ratio", "miou"])
@pytest.mark.parametrize(("gate", "outcome"), [(0.5, "not judged"), (0.8, "fail")])
def test_a_seed_without_a_number_does_not_pass_by_the_others(tmp_path, figure, gate, outcome):
    folders = [FakeRun(seed=seed, gate=gate).write(tmp_path) for seed in range(4)]
    path = folders[3] / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["full"][figure] = None  # NaN, as JSON has it
    path.write_text(json.dumps(evaluation))
    verdict = judge_fusion(group_runs([load_run(folder) for folder in folders])[0])
    assert verdict.outcome == outcome
    assert ("Of seed 3" in verdict.evidence) == (outcome == "not judged")


@pytest.mark.parametrize(
    ("augment", "dropout", "outcome"),
    [
        ({"no_views_probability": 0.0}, 0.0, "indicative pass"),
        ({"no_views_probability": 0.1, "enabled": False}, 0.0, "indicative pass"),
        ({"no_views_probability": 0.1}, 0.0, "pass"),
        ({"no_views_probability": 0.0}, 0.3, "pass"),
    ],
)
def test_withholding_views_is_fair_where_training_went_without(tmp_path, augment, dropout, outcome):
    folders = [fake.write(tmp_path) for fake in seeds()]
    for folder in folders:
        set_in_config(folder, augment, "data", "augment")
        set_in_config(folder, {"dropout": dropout}, "model", "training_views")
    verdict = judge_fusion(group_runs([load_run(folder) for folder in folders])[0])
    assert verdict.outcome == outcome
    assert ("never trained without views" in verdict.evidence) == (outcome != "pass")


# -------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    ("count", "settings", "outcome"),
    [
        (3, {}, "pass"),
        (3, {"gradient_noise": 0.5}, "fail"),
        (1, {}, "indicative pass"),
        (1, {"gradient_noise": 0.5}, "indicative fail"),
        (1, {"nonfinite": {1: 1}}, "fail"),
        (3, {"nonfinite": {30: 1}}, "pass"),  # after the stage
        (3, {"epochs_done": 2, "state": "running"}, "not judged"),
    ],
)
def test_stage_1_is_as_stable_as_the_baseline(tmp_path, count, settings, outcome):
    sizes = {"epochs": 48, "steps_per_epoch": 10}
    rivals = seeds(count, arm="baseline", **sizes)
    arms = arms_of(tmp_path, *seeds(count, **sizes, **settings), *rivals)
    verdict = judge_stage_1(arms[1], arms[0])
    assert verdict.outcome == outcome
    assert ("(1 seed, fewer than 3.)" in verdict.evidence) == ("indicative" in outcome)


def test_stage_1_counts_the_seeds_of_the_fewer(tmp_path):
    sizes = {"epochs": 48, "steps_per_epoch": 10}
    arms = arms_of(tmp_path, *seeds(3, **sizes), FakeRun(arm="baseline", **sizes))
    assert judge_stage_1(arms[1], arms[0]).outcome == "indicative pass"


def test_stage_1_waits_for_the_baselines_own(tmp_path):
    begun = FakeRun(arm="baseline", epochs=48, steps_per_epoch=10, epochs_done=3, state="running")
    arms = arms_of(tmp_path, FakeRun(epochs=48, steps_per_epoch=10), begun)
    verdict = judge_stage_1(arms[1], arms[0])
    assert verdict.outcome == "not judged" and "baseline did not come through them" in verdict.evidence


def test_stage_1_without_a_baseline_is_not_judged(tmp_path):
    assert judge_stage_1(arms_of(tmp_path, FakeRun())[0], None).outcome == "not judged"


@pytest.mark.parametrize(
    ("fakes", "outcome"),
    [
        (seeds(), "pass"),
        (seeds(alignment_rises=False), "fail"),
        (seeds(1), "indicative pass"),
        (seeds(1, alignment_rises=False), "indicative fail"),
        (seeds(shuffled_retrieval=0.25), "fail"),  # place alone is found as often
        (seeds(1, state="running", epochs_done=3), "not judged"),
        (seeds(arm="without_views"), "not judged"),
    ],
)
def test_stage_2_aligns(tmp_path, fakes, outcome):
    assert judge_stage_2(arms_of(tmp_path, *fakes)[0]).outcome == outcome


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({0: "end", 1: "start", 2: "start"}, "not measured (yet)."),  # no seed has both
        ({3: "end"}, "not measured (yet) of seed 3."),
        ({3: "shuffled_2d"}, "shuffled between points it was not measured of seed 3."),
    ],
)
def test_stage_2_asks_each_seed_for_its_own_figures(tmp_path, changes, told):
    folders = [FakeRun(seed=seed).write(tmp_path) for seed in range(3 if 0 in changes else 4)]
    for seed, missing in changes.items():
        path = folders[seed] / "evaluation.json"
        evaluation = json.loads(path.read_text())
        parts = {**evaluation["alignment_by_stage"]["alignment"], **evaluation}
        figures = parts[missing]["alignment"] if missing == "shuffled_2d" else parts[missing]
        figures["retrieval_at_1"] = None
        path.write_text(json.dumps(evaluation))
    verdict = judge_stage_2(group_runs([load_run(folder) for folder in folders])[0])
    assert verdict.outcome == "not judged" and verdict.evidence.endswith(told)


def test_only_arms_with_three_stages_have_stage_verdicts(tmp_path):
    arms = arms_of(tmp_path, FakeRun(), FakeRun(arm="naive"), FakeRun(arm="baseline"))
    criteria = {
        arm.key: [v.criterion for v in judge_stages(arm, arms[0], judge_performance(arm, arms))]
        for arm in arms
    }
    assert criteria == {"baseline": [], "naive": [], "staged": ["stage 1", "stage 2", "stage 3"]}
